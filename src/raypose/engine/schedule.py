"""Learning rate, momentum and accumulation as pure functions of the step, by Ultralytics' recipe.

Learning rates change at epochs: lr0 * factor(epoch), linear or cosine. During warm-up they change at steps: biases
fall from warmup_bias_lr, everything else rises from 0, momentum rises from warmup_momentum, and the number of
batches that add up to an update grows from 1 to the nominal one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch.optim import Optimizer

from raypose.config import TrainConfig
from raypose.model import accumulated_batches


class StepSchedule(Protocol):
    """What the training step asks of a schedule."""

    def apply(self, optimizer: Optimizer, step: int) -> None:
        """Set what the optimizer is to use for the batch of this step."""

    def updates_at(self, step: int) -> bool:
        """Whether the optimizer moves after the batch of this step."""


@dataclass(frozen=True)
class Schedule:
    """What applies at each step. A parameter group's own lr0 is kept as its `initial_lr`."""

    epochs: int
    total_steps: int
    samples: int
    batch: int
    accumulate: int
    """Batches that add up to one optimizer update after warm-up."""
    lrf: float
    cosine: bool
    warmup_epochs: float
    warmup_bias_lr: float
    warmup_momentum: float
    momentum: float

    @classmethod
    def of(cls, train: TrainConfig, *, samples: int, total_steps: int, warmup_bias_lr: float) -> Schedule:
        """The schedule of a run; warmup_bias_lr is that of the optimizer that applies (0 under `auto`)."""
        return cls(
            epochs=train.epochs,
            total_steps=total_steps,
            samples=samples,
            batch=train.batch,
            accumulate=min(accumulated_batches(train), total_steps),
            lrf=train.lrf,
            cosine=train.cos_lr,
            warmup_epochs=min(train.warmup_epochs, train.epochs - 1),
            warmup_bias_lr=warmup_bias_lr,
            warmup_momentum=train.warmup_momentum,
            momentum=train.momentum,
        )

    @property
    def warmup_steps(self) -> int:
        """The last epoch is never spent on warm-up."""
        return round(self.warmup_epochs * math.ceil(self.samples / self.batch))

    def epoch_of(self, step: int) -> int:
        """The epoch that the batch of this step begins in."""
        return step * self.batch // self.samples

    def factor(self, epoch: int) -> float:
        """Share of lr0 that applies in an epoch: 1 in the first, towards lrf at the end."""
        done = min(epoch / self.epochs, 1.0)
        if self.cosine:
            return 1.0 + (self.lrf - 1.0) * (1.0 - math.cos(done * math.pi)) / 2.0
        return (1.0 - done) * (1.0 - self.lrf) + self.lrf

    def apply(self, optimizer: Optimizer, step: int) -> None:
        """Set the learning rates and momenta with which the batch of this step is trained."""
        factor = self.factor(self.epoch_of(step))
        warm = min(step / self.warmup_steps, 1.0) if self.warmup_steps else 1.0
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            start = self.warmup_bias_lr if group.get("param_group") == "bias" else 0.0
            group["lr"] = start + (group["initial_lr"] * factor - start) * warm
            if "momentum" in group:
                group["momentum"] = self.warmup_momentum + (self.momentum - self.warmup_momentum) * warm

    def updates_at(self, step: int) -> bool:
        """Whether the optimizer moves after the batch of this step. It always does after the last."""
        if step <= self.warmup_steps:
            return step in self._warmup_updates
        anchor = max(self._warmup_updates)
        return (step - anchor) % self.accumulate == 0 or step == self.total_steps - 1

    @cached_property
    def _warmup_updates(self) -> frozenset[int]:
        updates, last = set(), -1
        for step in range(self.warmup_steps + 1):
            warm = step / self.warmup_steps if self.warmup_steps else 1.0
            if step - last >= max(1, round(1 + (self.accumulate - 1) * warm)):
                updates.add(step)
                last = step
        if self.total_steps - 1 <= self.warmup_steps:
            updates.add(self.total_steps - 1)
        return frozenset(updates or {-1})
