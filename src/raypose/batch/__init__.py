"""Prediction over what a user has: images, folders, globs and videos."""

from raypose.batch.predict import PosePredictor, PredictSummary, VideoFormat, predict_source
from raypose.batch.sources import Frame, ImageFiles, Unreadable, VideoFile, open_source

__all__ = [
    "Frame",
    "ImageFiles",
    "PosePredictor",
    "PredictSummary",
    "Unreadable",
    "VideoFile",
    "VideoFormat",
    "open_source",
    "predict_source",
]
