"""The end of a run: the best checkpoint measured once more in full, drawn, reported and summed up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from raypose.checkpoint import SavedCheckpoint, TrainProgress, best_of
from raypose.checkpoint.locate import SUMMARY
from raypose.engine.report import publish_report
from raypose.engine.restore import load_average
from raypose.engine.setup import Parts
from raypose.engine.training_images import measure_training_images
from raypose.engine.validate import validate
from raypose.structures import json_ready
from raypose.telemetry import Reporter, RunFinished
from raypose.telemetry.logbook import read_rows

Summary = dict[str, Any]


def finish(parts: Parts, progress: TrainProgress, report: Reporter) -> Summary | None:
    """Validate the best weights on all workers; on the leader, publish report, pictures and, last, the summary."""
    best = _best(parts)
    load_average(parts.checkpoints.load(best.name), parts.average.module)
    if parts.world.is_leader:
        parts.checkpoints.copy_model(best, parts.store, "weights/best.pt")
    predictor = parts.predictor(parts.average.module)
    evaluation = validate(
        predictor,
        parts.val_set,
        parts.world,
        batch=parts.config.val.batch,
        judge=parts.judge,
        earlier=best.metrics,
    )
    if evaluation is None:
        return None
    trained = measure_training_images(parts, predictor, report)
    publish_report(
        parts.store.child("report"),
        title=parts.config.name,
        evaluation=evaluation,
        predictor=predictor,
        shards=parts.val_set,
        pictures=parts.config.val.pictures,
        facts=_facts(parts, best),
        history=read_rows(parts.store),
        trained=trained,
    )
    summary = _summary(parts, progress, best, evaluation.metrics, trained)
    parts.store.write(SUMMARY, json.dumps(summary, indent=1).encode())
    report(RunFinished(summary))
    return summary


def _best(parts: Parts) -> SavedCheckpoint:
    """What the leader, who waited for the last one to be durable, says is the best checkpoint."""
    best = best_of(parts.checkpoints.saved(), parts.config.checkpoint.best_metric) if parts.world.is_leader else None
    return cast("SavedCheckpoint", parts.world.from_leader(best))


def _facts(parts: Parts, best: SavedCheckpoint) -> dict[str, str]:
    config = parts.config
    return {
        "model": config.model.architecture,
        "keypoints": str(parts.spec.skeleton.keypoints),
        "training images": str(len(parts.train_set)),
        "image size": f"{config.train.imgsz} px",
        "batch": f"{config.train.batch} over {config.scaling.lanes} virtual workers",
        "optimizer": f"{parts.choice.name}, lr0 {parts.choice.lr0:g}",
        "best epoch": f"{parts.plan.epochs_completed(best.step)} of {config.train.epochs}",
        "workers": f"{parts.world.size} x {parts.world.device}, {parts.train_step.precision.name}",
        "seed": str(config.train.seed),
    }


def _summary(
    parts: Parts,
    progress: TrainProgress,
    best: SavedCheckpoint,
    metrics: Mapping[str, float],
    trained: Mapping[str, float] | None,
) -> Summary:
    completed = parts.plan.epochs_completed(progress.step)
    return {
        "status": "completed" if progress.step == parts.total_steps else "stopped early",
        "name": parts.config.name,
        "folder": parts.store.url,
        "epochs": completed,
        "steps": progress.step,
        "images": progress.images,
        "best_metric": parts.config.checkpoint.best_metric,
        "best": {
            "epoch": parts.plan.epochs_completed(best.step),
            "step": best.step,
            **json_ready(metrics),
        },
        "trained": None if trained is None else json_ready(trained),
        "images_per_second": round(progress.images / max(progress.train_seconds, 1e-9), 2),
        "train_seconds": round(progress.train_seconds, 2),
        "wall_seconds": round(progress.wall_seconds, 2),
        "bad_samples": progress.bad_samples,
        "workers": parts.world.size,
        "checkpoint": parts.checkpoints.place(best),
    }
