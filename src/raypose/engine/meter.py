"""Losses, speed and memory since the last look. Tensors are read only when somebody asks."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from raypose.checkpoint import TrainProgress
from raypose.engine.step import StepResult
from raypose.engine.world import World


@dataclass(frozen=True, slots=True)
class Reading:
    """What was measured since the last reading of the same kind."""

    losses: dict[str, float]
    seconds: float
    images_per_second: float
    step_seconds: tuple[float, ...]
    wait_seconds: float
    sync_seconds: float


class _Window:
    """Sums over some steps."""

    def __init__(self, terms: int, device: str) -> None:
        # Wide enough that the order of adding does not show: a resumed epoch adds up in other groups.
        self.losses = torch.zeros(terms, dtype=torch.float64, device=device)
        self.steps = 0
        self.trained_steps = 0
        self.seconds = 0.0
        self.wait_seconds = 0.0
        self.sync_seconds = 0.0


class Meter:
    """Adds up what steps return: for a line of the log, and for the epoch."""

    def __init__(
        self, loss_names: Sequence[str], world: World, *, batch: int, lanes: int, progress: TrainProgress
    ) -> None:
        self._names = tuple(loss_names)
        self._world = world
        self._batch = batch
        self._lanes = lanes
        self._line = self._new_window()
        self._epoch = self._epoch_of(progress)
        self._step_seconds: list[float] = []
        self._wait_seconds = 0.0
        self._last = time.monotonic()

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Time spent inside is time the model had nothing to do."""
        start = time.monotonic()
        yield
        self._wait_seconds += time.monotonic() - start

    def add(self, result: StepResult) -> float:
        """One more step is done; returns the seconds it took, waiting included."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self._step_seconds.append(seconds)
        for window in (self._line, self._epoch):
            if result.dropped is None:
                window.losses += result.losses
                window.trained_steps += 1
            window.steps += 1
            window.seconds += seconds
            window.wait_seconds += self._wait_seconds
            window.sync_seconds += result.sync_seconds
        self._wait_seconds = 0.0
        return seconds

    def skip_pause(self) -> None:
        """What happened since the last step (a validation, a checkpoint) does not count as training."""
        self._last = time.monotonic()

    def read_line(self) -> Reading:
        """What the steps since the last line did. All workers call it after the same step."""
        window, self._line = self._line, self._new_window()
        step_seconds, self._step_seconds = tuple(self._step_seconds), []
        return self._read(window, step_seconds)

    def read_epoch(self) -> Reading:
        """What the steps since the last epoch did. All workers call it after the same step."""
        window, self._epoch = self._epoch, self._new_window()
        return self._read(window)

    def keep_epoch(self, progress: TrainProgress) -> TrainProgress:
        """`progress` with what the steps since the last epoch add up to. All workers call it after the same step."""
        sums = self._world.add_up(self._epoch.losses.clone()).tolist()
        return replace(
            progress,
            epoch_losses=dict(zip(self._names, sums, strict=True)),
            epoch_steps=self._epoch.trained_steps,
            epoch_seconds=self._epoch.seconds,
        )

    def _epoch_of(self, progress: TrainProgress) -> _Window:
        """The epoch as `keep_epoch` left it; a new one where the checkpoint does not hold these losses."""
        window = self._new_window()
        if set(progress.epoch_losses) == set(self._names):
            window.trained_steps, window.seconds = progress.epoch_steps, progress.epoch_seconds
            if self._world.is_leader:  # the sums are those of all workers, which add theirs up
                sums = [progress.epoch_losses[name] for name in self._names]
                window.losses += torch.tensor(sums, dtype=window.losses.dtype, device=window.losses.device)
        return window

    def _new_window(self) -> _Window:
        return _Window(len(self._names), self._world.device)

    def _read(self, window: _Window, step_seconds: tuple[float, ...] = ()) -> Reading:
        # Each worker has the sum over its own virtual workers; a loss is the mean over all of them.
        means = self._world.add_up(window.losses.clone()) / (self._lanes * max(window.trained_steps, 1))
        losses = dict(zip(self._names, means.tolist(), strict=True))
        return Reading(
            losses=losses,
            seconds=window.seconds,
            images_per_second=window.steps * self._batch / max(window.seconds, 1e-9),
            step_seconds=step_seconds,
            wait_seconds=window.wait_seconds,
            sync_seconds=window.sync_seconds,
        )


def peak_memory_bytes(device: str) -> int:
    """Most memory this process has held: on the GPU it trains on, else resident memory."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
