"""The files that a run keeps about itself: `metrics.jsonl`, `results.csv` and TensorBoard events.

All of them are rewritten whole through the run's store, because object stores cannot append; and all of them are
cut back to the resumed step first, so that a run that was interrupted reads like one that was not.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tensorboardX import SummaryWriter

from raypose.errors import StorageUnavailableError
from raypose.storage import ObjectStore
from raypose.structures import json_ready
from raypose.telemetry.events import CheckpointSaved, EpochValidated, Event, StepsDone

METRICS_KEY = "metrics.jsonl"
RESULTS_KEY = "results.csv"

# Ultralytics' column names, for the tools that people already have; (P) is pose, (B) is box.
_CSV_METRICS = {
    "metrics/precision(P)": "precision",
    "metrics/recall(P)": "recall",
    "metrics/mAP50(P)": "pose_ap50",
    "metrics/mAP50-95(P)": "pose_ap",
    "metrics/mAP50(B)": "box_ap50",
    "metrics/mAP50-95(B)": "box_ap",
}


class Logbook:
    """A Reporter that writes a run's files. Used as a context manager, it also keeps the rows since the last epoch."""

    def __init__(self, store: ObjectStore, *, start_step: int, tensorboard: bool) -> None:
        self._store = store
        rows = list(read_rows(store, until_step=start_step))
        self._lines = [_line(row) for row in rows]  # encoded once: a long run has many, and writes them often
        self._epochs = [row for row in rows if row["kind"] == "val"]
        self._board = _TensorBoard(store, start_step) if tensorboard else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="raypose-logbook")
        self._writing: Future[None] | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepsDone):
            self._add(train_row(event))
        elif isinstance(event, EpochValidated):
            self._add_epoch(event)
        elif isinstance(event, CheckpointSaved):
            self._write_meanwhile()  # a run that ends without a word goes on from here, and so does its history

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A store that was waited for in vain would be waited for once more; a resumed run writes these rows again.
        is_reachable = not isinstance(error, StorageUnavailableError)
        with self._thread:
            if is_reachable:
                self._publish()
        if self._board is not None:
            self._board.close(publish=is_reachable)

    def _add(self, row: Mapping[str, Any]) -> None:
        self._lines.append(_line(row))
        if self._board is not None:
            self._board.add(row)

    def _add_epoch(self, event: EpochValidated) -> None:
        earlier_seconds = self._epochs[-1]["seconds"] if self._epochs else 0.0
        seconds = earlier_seconds + event.train_seconds + event.val_seconds
        self._epochs.append({**validation_row(event), "seconds": seconds})
        self._add(self._epochs[-1])
        self._publish()

    def _write(self, lines: Sequence[str]) -> None:
        self._store.write(METRICS_KEY, "".join(lines).encode())

    def _write_meanwhile(self) -> None:
        """Training goes on. What is still being written is not waited for: the next one has its rows, too."""
        if self._writing is None or self._writing.done():
            self._wait()
            self._writing = self._thread.submit(self._write, list(self._lines))

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _publish(self) -> None:
        self._wait()
        self._write(self._lines)
        if self._epochs:
            self._store.write(RESULTS_KEY, _results_csv(self._epochs).encode())
        if self._board is not None:
            self._board.publish()


def train_row(event: StepsDone) -> dict[str, Any]:
    """Some steps, under the names that files and trackers share."""
    return {
        "kind": "train",
        "step": event.step,
        "epoch": round(event.epoch, 4),
        **{f"train/{name}": value for name, value in event.losses.items()},
        **{f"lr/pg{index}": value for index, value in enumerate(event.learning_rates)},
        "gradient_norm": event.gradient_norm,
        "images_per_second": event.images_per_second,
        "data_wait_fraction": event.data_wait_fraction,
        "sync_fraction": event.sync_fraction,
        "memory_bytes": event.memory_bytes,
    }


def validation_row(event: EpochValidated) -> dict[str, Any]:
    """A validated epoch, under the names that files and trackers share."""
    return {
        "kind": "val",
        "step": event.step,
        "epoch": event.epoch,
        **{f"train/{name}": value for name, value in event.losses.items()},
        **{f"val/{name}": value for name, value in event.metrics.items()},
        **{f"lr/pg{index}": value for index, value in enumerate(event.learning_rates)},
    }


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(json_ready(row)) + "\n"


def read_rows(store: ObjectStore, until_step: int | None = None) -> Iterable[dict[str, Any]]:
    """The rows of `metrics.jsonl`, up to and with `until_step`; none where there is no such file."""
    if not store.exists(METRICS_KEY):
        return
    for line in store.read(METRICS_KEY).decode().splitlines():
        row = json.loads(line)
        if until_step is None or row["step"] <= until_step:
            yield row


def _results_csv(rows: list[dict[str, Any]]) -> str:
    losses = [key for key in rows[0] if key.startswith("train/")]
    rates = [key for key in rows[0] if key.startswith("lr/")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", "time", *losses, *_CSV_METRICS, *rates])
    for row in rows:
        metrics = [row.get(f"val/{name}") for name in _CSV_METRICS.values()]
        values = [row["seconds"], *(row.get(key) for key in losses), *metrics, *(row.get(key) for key in rates)]
        writer.writerow([row["epoch"], *("" if value is None else f"{value:.6g}" for value in values)])
    return text.getvalue()


class _TensorBoard:
    """Event files, written locally and uploaded when an epoch is complete."""

    def __init__(self, store: ObjectStore, start_step: int) -> None:
        self._store = store.child("tensorboard")
        self._folder = tempfile.TemporaryDirectory(prefix="raypose-tensorboard-")
        # TensorBoard forgets that step and all after it; the one that a run resumes from stays.
        self._writer = SummaryWriter(self._folder.name, purge_step=start_step + 1)

    def add(self, row: Mapping[str, Any]) -> None:
        for key, value in row.items():
            if key not in ("kind", "step", "seconds") and isinstance(value, int | float):
                self._writer.add_scalar(key if "/" in key else f"{row['kind']}/{key}", value, row["step"])

    def publish(self) -> None:
        self._writer.flush()
        self._upload()

    def close(self, *, publish: bool) -> None:
        self._writer.close()
        if publish:
            self._upload()
        self._folder.cleanup()

    def _upload(self) -> None:
        for path in sorted(Path(self._folder.name).iterdir()):
            self._store.upload(path, path.name)
