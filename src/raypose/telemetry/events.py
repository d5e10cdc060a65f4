"""The few things a run says. Events are plain frozen values, so they cross processes and are easy to test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class WorkersStarting:
    """Everything that can be checked before is in order; Ray and the workers take seconds to start."""

    workers: str
    """How many, such as `2` or `1 to 8`."""
    cluster: str | None
    """The address of the Ray cluster; None for a Ray of this machine."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run is set up and about to train."""

    name: str
    folder: str
    architecture: str
    parameters: int
    workers: int
    virtual_workers: int
    device: str
    precision: str
    optimizer: str
    train_images: int
    val_images: int
    epochs: int
    start_step: int
    total_steps: int
    data_bytes: int = 0
    """Of the shards of both sets."""
    best_metric: str = "pose_ap"
    """The metric of validation that says which checkpoint is best."""


@dataclass(frozen=True, slots=True)
class StepsDone:
    """Means over the steps since the last such event."""

    step: int
    """Batches trained so far."""
    epoch: float
    """Epochs of data seen so far, with a fraction."""
    losses: Mapping[str, float]
    learning_rates: tuple[float, ...]
    """One for each parameter group of the optimizer."""
    gradient_norm: float | None
    """Of the last optimizer update, before clipping. None before the first."""
    images_per_second: float
    memory_bytes: int
    """Peak of the leader: CUDA memory on a GPU, resident memory on a CPU."""
    samples: int
    """Training images of these steps, of all workers."""
    images_read: int
    """Images that the leader decoded for them."""
    step_seconds: tuple[float, ...]
    """Of each step, waiting included; pauses for validation and checkpoints are not."""
    data_wait_seconds: float
    """How long training waited for its next batch in these steps."""
    sync_seconds: float
    """How long the leader, its own gradients done, waited for the sum over all workers."""
    fetched_bytes: int = 0
    """Shards that came into the cache of the leader's node meanwhile, for whatever process."""

    @property
    def data_wait_fraction(self) -> float:
        """Share of the time that training waited for its next batch."""
        return self.data_wait_seconds / max(sum(self.step_seconds), 1e-9)

    @property
    def sync_fraction(self) -> float:
        """Share of the time that training waited for other workers."""
        return self.sync_seconds / max(sum(self.step_seconds), 1e-9)


@dataclass(frozen=True, slots=True)
class EpochValidated:
    """An epoch is complete and its validation too."""

    epoch: int
    """Epochs completed."""
    step: int
    losses: Mapping[str, float]
    """Training losses, means over the epoch."""
    metrics: Mapping[str, float]
    learning_rates: tuple[float, ...]
    train_seconds: float
    val_seconds: float
    is_best: bool


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """A checkpoint is complete in storage."""

    step: int
    place: str
    seconds: float
    is_best: bool
    blocked_seconds: float = 0.0
    """How long training stood still for it."""
    bad_images: int = 0
    """Images of the run so far that did not decode."""


@dataclass(frozen=True, slots=True)
class WorkersFailed:
    """At least one worker is gone. Unless the run is over, all start again from the last checkpoint."""

    cause: str
    """A word for statistics, such as `worker_lost`."""
    detail: str
    """What happened, in one line."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a user should read, in one line."""

    text: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run is over; the summary is what `summary.json` holds."""

    summary: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunStopped:
    """The run ended before it was done; said in the driver, which may be the only one left to say it."""

    reason: str
    interrupted: bool
    """Somebody asked for it, and the state is saved."""


Event = (
    WorkersStarting
    | RunStarted
    | StepsDone
    | EpochValidated
    | CheckpointSaved
    | WorkersFailed
    | Notice
    | RunFinished
    | RunStopped
)
Reporter = Callable[[Event], None]


def fan_out(*reporters: Reporter) -> Reporter:
    """One reporter that tells all of them, in order."""

    def report(event: Event) -> None:
        for reporter in reporters:
            reporter(event)

    return report
