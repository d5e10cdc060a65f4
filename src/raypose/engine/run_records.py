"""What a run has left behind, finished or not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raypose.checkpoint import config_of_run, run_of
from raypose.checkpoint.locate import SUMMARY
from raypose.config.load import dotted
from raypose.errors import CheckpointError
from raypose.evaluate.run_comparison import RunRecord
from raypose.storage import ObjectStore
from raypose.telemetry.logbook import read_rows

_PLACE = ("epoch", "step")


def read_runs(references: Sequence[str | Path]) -> list[RunRecord]:
    """The runs that these paths or URLs name, under names that differ."""
    runs = [read_run(reference) for reference in references]
    names = [run.name for run in runs]
    return [run if names.count(run.name) == 1 else replace(run, name=run.url) for run in runs]


def read_run(reference: str | Path) -> RunRecord:
    """One run. Raises CheckpointError where there is none."""
    store = run_of(reference)
    if store is None:
        raise CheckpointError(
            f"{reference}: no run there (no config.yaml); name the folder of a run, such as runs/demo"
        )
    config = config_of_run(store)
    history = list(read_rows(store))
    summary = _summary(store)
    best = summary["best"] if summary else _best_so_far(history, config.checkpoint.best_metric)
    epochs = [row for row in history if row.get("kind") == "val"]
    return RunRecord(
        name=config.name,
        url=store.url,
        status=summary.get("status", "not finished"),
        settings={
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in dotted(config.model_dump(mode="json")).items()
        },
        metrics={name: float(value) for name, value in best.items() if value is not None and name not in _PLACE},
        history=history,
        best_epoch=best.get("epoch", math.nan),
        images_per_second=summary.get("images_per_second", math.nan),
        train_seconds=summary.get("train_seconds", epochs[-1]["seconds"] if epochs else math.nan),
    )


def _summary(store: ObjectStore) -> dict[str, Any]:
    if not store.exists(SUMMARY):
        return {}
    try:
        summary = json.loads(store.read(SUMMARY))
    except ValueError as error:
        raise CheckpointError(f"{store.place(SUMMARY)}: {error}; validate the run again with 'raypose val'") from error
    if not isinstance(summary, dict) or not isinstance(summary.get("best"), dict):
        raise CheckpointError(f"{store.place(SUMMARY)}: no summary of a run (no 'best' in it); restore the file")
    return summary


def _best_so_far(history: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """The epoch with the highest `metric`, its metrics without their prefix."""
    rows = [row for row in history if row.get("kind") == "val" and row.get(f"val/{metric}") is not None]
    if not rows:
        return {}
    best = max(rows, key=lambda row: float(row[f"val/{metric}"]))
    measured = {key.removeprefix("val/"): value for key, value in best.items() if key.startswith("val/")}
    return {"epoch": best["epoch"], **measured}
