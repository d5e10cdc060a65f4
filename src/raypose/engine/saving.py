"""Checkpoints that training does not wait for: copied between two steps, written while the next ones go on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from raypose.checkpoint import Snapshot, TrainProgress, select_expired
from raypose.engine.restore import HostMemory, load_average, tensors_of
from raypose.engine.setup import Parts
from raypose.model import portable_copy, write_portable
from raypose.telemetry import CheckpointSaved, Reporter

_SECONDS_PER_MINUTE = 60.0


@dataclass(slots=True)
class _UnderWay:
    """A checkpoint that a thread is writing. `blocked_seconds` grows while training waits for it."""

    progress: TrainProgress
    is_best: bool
    place: Future[str]
    started_s: float
    blocked_seconds: float


class Saver:
    """The leader's checkpoints, one at a time; on other workers it does nothing.

    As a context manager it does not end before the last one is durable. What went wrong with a checkpoint is raised by
    the next call, in the thread that trains; only one that is durable is reported.
    """

    def __init__(self, parts: Parts, report: Reporter) -> None:
        self._parts = parts
        self._report = report
        self._config = parts.config.checkpoint
        self._memory = HostMemory()
        if parts.world.is_leader:
            self._model = portable_copy(parts.average.module)  # once: copying takes longer than writing
        self._writer = _writer()
        self._under_way: _UnderWay | None = None
        self._last_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.wait()
            elif self._under_way is not None and (failure := self._under_way.place.exception()):
                error.add_note(f"the checkpoint of step {self._under_way.progress.step} failed as well: {failure}")
        finally:
            self._writer.shutdown()

    def is_due(self) -> bool:
        """Whether `checkpoint.every_minutes` have passed since the last one."""
        minutes = self._config.every_minutes
        return minutes is not None and time.monotonic() - self._last_s >= minutes * _SECONDS_PER_MINUTE

    def save(self, progress: TrainProgress, metrics: Mapping[str, float], *, is_best: bool) -> None:
        """Copy the run as it is now, and have the copy written."""
        if not self._parts.world.is_leader:
            return
        self.wait()  # there is one copy in memory, and retention wants checkpoints in order
        start = self._last_s = time.monotonic()
        snapshot = self._snapshot(progress, metrics)
        place = self._writer.submit(self._publish, snapshot, is_best)
        self._under_way = _UnderWay(progress, is_best, place, start, time.monotonic() - start)
        if not self._config.background:
            self.wait()

    def look(self) -> None:
        """Report the checkpoint that has become durable since the last call, if any."""
        if self._under_way is not None and self._under_way.place.done():
            self.wait()

    def wait(self) -> None:
        """Return when nothing is being written any more."""
        if self._under_way is None:
            return
        start = time.monotonic()
        wait([self._under_way.place])
        done, self._under_way = self._under_way, None
        now = time.monotonic()
        self._report(
            CheckpointSaved(
                done.progress.step,
                done.place.result(),
                seconds=now - done.started_s,
                is_best=done.is_best,
                blocked_seconds=done.blocked_seconds + now - start,
                bad_images=done.progress.bad_samples,
            )
        )

    def _snapshot(self, progress: TrainProgress, metrics: Mapping[str, float]) -> Snapshot:
        step = self._parts.train_step
        updated = step.schedule.updates_at(progress.step - 1)
        tensors = tensors_of(step.model, step.average, step.optimizer, gradients=not updated)
        return Snapshot(self._parts.identity, progress, self._memory.copy_of(tensors), metrics)

    def _publish(self, snapshot: Snapshot, is_best: bool) -> str:
        """Encode, upload, make it count, and let go of those that it replaces. Runs in the thread."""
        checkpoints, config = self._parts.checkpoints, self._config
        saved = checkpoints.save(
            snapshot,
            lambda path: self._write_model(path, snapshot),
            weights=["weights/last.pt", *(["weights/best.pt"] if is_best else [])],
        )
        there = checkpoints.saved()
        # Later ones were damaged, or the run would have gone on from them: none of them may count as the newest.
        sound = [one for one in there if one.step <= saved.step]
        expired = select_expired(
            sound, keep_last=config.keep_last, keep_best=config.keep_best, best_metric=config.best_metric
        )
        checkpoints.delete([*expired, *(one for one in there if one not in sound)])
        return checkpoints.place(saved)

    def _write_model(self, path: Path, snapshot: Snapshot) -> None:
        parts = self._parts
        load_average(snapshot, self._model)
        write_portable(
            self._model,
            parts.spec,
            parts.config.train,
            path,
            epoch=parts.plan.epochs_completed(snapshot.progress.step),
            metrics=snapshot.metrics,
        )


def _writer() -> ThreadPoolExecutor:
    """A thread that computes alone.

    With helpers of its own there would be more threads than cores. OpenMP then has all of them sleep whenever they wait
    for each other, and every step after the first checkpoint takes half as long again.
    """
    writer = ThreadPoolExecutor(1, "raypose-checkpoint")
    threads = torch.get_num_threads()
    writer.submit(_compute_alone).result()
    torch.set_num_threads(threads)  # what a thread sets for itself is also what threads to come start with
    return writer


def _compute_alone() -> None:
    torch.get_num_threads()  # a thread takes what others start with when it first asks, and would do so after the next
    torch.set_num_threads(1)
