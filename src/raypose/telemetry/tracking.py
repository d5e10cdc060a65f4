"""Runs in experiment trackers: one Reporter for all of them, over a small protocol that each of them keeps."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from raypose.config import RunConfig
from raypose.config.load import dotted
from raypose.storage import ObjectStore
from raypose.telemetry.events import EpochValidated, Event, RunFinished, RunStarted, RunStopped, StepsDone
from raypose.telemetry.logbook import train_row, validation_row

Ending = Literal["finished", "failed", "interrupted"]


class Tracker(Protocol):
    """One run in one tracker. Made before Ray starts, so that what is wrong with it is a ConfigError."""

    def describe(self, facts: Mapping[str, str | int]) -> None:
        """What is known once the run is set up."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Figures at a step. A step that is done again after a restart is logged again."""

    def add_folder(self, folder: Path, name: str) -> None:
        """Keep these files with the run."""

    def end(self, ending: Ending) -> None:
        """Nothing follows."""


class Tracking:
    """A Reporter that tells a tracker: parameters, figures under the names of `metrics.jsonl`, the report."""

    def __init__(self, tracker: Tracker, store: ObjectStore) -> None:
        self._tracker = tracker
        self._store = store

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._tracker.describe(
                {
                    "parameters": event.parameters,
                    "workers": event.workers,
                    "device": event.device,
                    "precision": event.precision,
                    "train_images": event.train_images,
                    "val_images": event.val_images,
                }
            )
        elif isinstance(event, StepsDone):
            self._tracker.log(_figures(train_row(event)), event.step)
        elif isinstance(event, EpochValidated):
            self._tracker.log(_figures(validation_row(event)), event.step)
        elif isinstance(event, RunFinished):
            self._finish(event)
        elif isinstance(event, RunStopped):
            self._tracker.end("interrupted" if event.interrupted else "failed")

    def _finish(self, event: RunFinished) -> None:
        best = {f"best/{name}": value for name, value in event.summary.get("best", {}).items()}
        self._tracker.log(_figures(best), int(event.summary["steps"]))
        with tempfile.TemporaryDirectory(prefix="raypose-report-") as folder:
            for found in self._store.list("report/"):
                path = Path(folder, found.key.removeprefix("report/"))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._store.read(found.key))
            self._tracker.add_folder(Path(folder), "report")
        self._tracker.end("finished")


def parameters_of(config: RunConfig) -> dict[str, str | int | float | bool]:
    """Every setting by its dotted key, as overrides name it."""
    settings = dotted(config.model_dump(mode="json"))
    return {
        key: value if isinstance(value, str | int | float | bool) else str(value) for key, value in settings.items()
    }


def _figures(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row. Trackers differ in what they make of undefined ones, so those are left out."""
    return {
        key: float(value)
        for key, value in row.items()
        if key not in ("kind", "step") and isinstance(value, int | float) and math.isfinite(value)
    }
