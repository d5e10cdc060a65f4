"""Prediction over what a user has: images, folders, globs, shard sets and videos, here or all over a cluster."""

from raypose.batch.on_ray import Crew
from raypose.batch.plan import OutputFormat, PredictPrecision, Settings, VideoFormat
from raypose.batch.predict import PredictSummary, Progress, predict_source
from raypose.batch.sources import Source, open_source
from raypose.batch.work import PosePredictor

__all__ = [
    "Crew",
    "OutputFormat",
    "PosePredictor",
    "PredictPrecision",
    "PredictSummary",
    "Progress",
    "Settings",
    "Source",
    "VideoFormat",
    "open_source",
    "predict_source",
]
