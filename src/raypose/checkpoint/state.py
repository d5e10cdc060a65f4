"""What a checkpoint holds: tensors in safetensors, everything else as plain JSON. Nothing in it can run code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from raypose.errors import CheckpointError
from raypose.structures import Skeleton

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What must be equal for a checkpoint to be continued by a run."""

    architecture: str
    skeleton: Skeleton
    class_names: tuple[str, ...]
    imgsz: int
    recipe_digest: str
    train_digest: str
    """SHA-256 over the training set's shard digests: other data would be another run."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": {
                "architecture": self.architecture,
                "skeleton": self.skeleton.to_dict(),
                "class_names": list(self.class_names),
            },
            "imgsz": self.imgsz,
            "recipe_digest": self.recipe_digest,
            "train_digest": self.train_digest,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> RunIdentity:
        model = raw["model"]
        return cls(
            architecture=model["architecture"],
            skeleton=Skeleton.from_dict(model["skeleton"]),
            class_names=tuple(model["class_names"]),
            imgsz=raw["imgsz"],
            recipe_digest=raw["recipe_digest"],
            train_digest=raw["train_digest"],
        )

    def require_same(self, run: RunIdentity, where: str) -> None:
        """Raise CheckpointError that names what differs between this checkpoint and the run that would continue it."""
        if self.skeleton != run.skeleton:
            raise CheckpointError(
                f"{where}: made for another skeleton than that of the data, which has"
                f" {self.skeleton.difference(run.skeleton)};"
                " a resumed run needs the skeleton it began with"
            )
        if self.class_names != run.class_names:
            raise CheckpointError(
                f"{where}: made for classes {', '.join(self.class_names)}, but the data has"
                f" {', '.join(run.class_names)}; a resumed run needs the classes it began with"
            )
        if self.train_digest != run.train_digest:
            raise CheckpointError(
                f"{where}: made from another training set; resume with the data it began with,"
                " or start a new run with model.pretrained"
            )
        if self.recipe_digest != run.recipe_digest:
            raise CheckpointError(
                f"{where}: made under another recipe (model, train, augment or virtual workers);"
                " resume without changing them, or start a new run with model.pretrained"
            )


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """Where a run stands. With the configuration, `step` decides every batch and learning rate that follows."""

    step: int = 0
    """Batches trained; the next one is number `step`."""
    updates: int = 0
    """Optimizer updates made, on which the decay of the moving average depends."""
    best_metric: str | None = None
    """Which metric `best_value` is one of."""
    best_value: float | None = None
    best_epoch: int | None = None
    stale_epochs: int = 0
    """Epochs since the best one."""
    train_seconds: float = 0.0
    wall_seconds: float = 0.0
    images: int = 0
    bad_samples: int = 0
    bad_steps: int = 0
    """Steps that moved no weights because their loss or gradient was not finite."""
    bad_steps_in_a_row: int = 0
    epoch_losses: Mapping[str, float] = field(default_factory=dict)
    """Each loss term, summed over all virtual workers and the steps since the last validation, which reports the mean.
    Empty in checkpoints from before it was kept."""
    epoch_steps: int = 0
    """How many steps those are."""
    epoch_seconds: float = 0.0
    """How long they took."""
    precision: str | None = None
    """What `train.precision` came to. None in checkpoints from before it was kept."""

    def judged(self, metric: str, value: float | None, epoch: int) -> TrainProgress:
        """After a validation that measured `value` (higher is better, None undefined) at the end of `epoch`.

        A run that is resumed with another metric has no best epoch yet.
        """
        best_value = self.best_value if self.best_metric in (metric, None) else None
        if value is not None and (best_value is None or value > best_value):
            return replace(self, best_metric=metric, best_value=value, best_epoch=epoch, stale_epochs=0)
        return replace(self, stale_epochs=epoch - (self.best_epoch or 0))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment of a run. Tensors are named `model.…`, `ema.…`, `optimizer.<index>.<slot>` and `gradient.…`.

    Gradients are there only between two optimizer updates, when they have added up over some batches.
    """

    identity: RunIdentity
    progress: TrainProgress
    tensors: Mapping[str, Tensor]
    metrics: Mapping[str, float]
    """The validation at this step; empty where there was none."""
