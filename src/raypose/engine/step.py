"""One training step: the micro-batches of this worker's virtual workers in, moved weights out."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from raypose.config import TrainConfig
from raypose.config.schema import STRIDE
from raypose.engine.average import WeightAverage
from raypose.engine.batchnorm import VirtualBatchNorm
from raypose.engine.feed import DeviceBatch
from raypose.engine.global_batchnorm import normalise_globally
from raypose.engine.gradient_sum import GradientSum
from raypose.engine.loss_guard import BadStep, LossGuard
from raypose.engine.precision import Precision
from raypose.engine.schedule import StepSchedule
from raypose.engine.sync_clock import SyncClock
from raypose.engine.world import World
from raypose.model import compute_joint_losses, compute_loss, freeze_layers, normalise_in_one_go, set_train_mode


@dataclass(frozen=True, slots=True)
class StepResult:
    """Tensors that nobody has waited for yet: reading them is the caller's choice of when."""

    losses: torch.Tensor
    """Loss terms, summed over this worker's micro-batches."""
    gradient_norm: torch.Tensor | None
    """Before clipping; None where gradients only added up."""
    sync_seconds: float = 0.0
    """How long this worker waited for the gradients of the others, as far as a CPU can tell."""
    dropped: BadStep | None = None
    """The step, where its losses or gradient were not finite and nothing of it was kept."""


class TrainStep:
    """Forward, backward, and, when the schedule says so, the update of weights and moving average.

    The gradient is the sum over virtual workers of what Ultralytics back-propagates on one GPU, which is the mean over
    virtual workers times their number: the scale of its multi-GPU training, on which gradient clipping depends.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        average: WeightAverage,
        schedule: StepSchedule,
        precision: Precision,
        train: TrainConfig,
        lanes: int,
        world: World,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.average = average
        self.schedule = schedule
        self.precision = precision
        self._train = train
        self._forward = _compiled(model, train) if train.compile else model
        self._lanes = lanes
        self._world = world
        # A CPU has nothing to run ahead of.
        at_once = train.on_bad_loss != "stop" or not world.device.startswith("cuda")
        self.guard = LossGuard(world, at_once=at_once)
        if train.sync_bn:
            normalise_globally(model, world)
        elif precision.is_bfloat16_on_cpu and torch.get_num_threads() == 1 and not train.compile:
            normalise_in_one_go(model)
        self._look_at_what_trains()

    def freeze(self, layers: int | tuple[int, ...]) -> None:
        """Train on with just these layers fixed. All workers call it after the same step."""
        self._sync_clock.close()
        self._gradients.close()
        freeze_layers(self.model, layers)
        set_train_mode(self.model)
        for parameter in self.model.parameters():
            if not parameter.requires_grad:
                parameter.grad = None  # with one, even of zeros, the optimizer would move it
        self._look_at_what_trains()

    def _look_at_what_trains(self) -> None:
        # With sync_bn each worker has one batch of statistics, and all have the same.
        parts = self._world.size if self._train.sync_bn else self._lanes
        self._statistics = VirtualBatchNorm(self.model, parts, self._world)
        self._sync_clock = SyncClock(self.model, self._world)
        # NCCL wants all exchanges in one order on all workers. Those of BatchNorm take place in every layer, and when a
        # gradient is there depends on the batch.
        self._gradients = GradientSum(self.model, self._world, early=not self._train.sync_bn)
        self._trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def __call__(self, step: int, micro_batches: Sequence[DeviceBatch], updates: int) -> StepResult:
        """Train on this worker's part of a global batch. `updates` counts the optimizer updates made before."""
        self.schedule.apply(self.optimizer, step)
        size = image_size_of(self._train, step)
        self._statistics.begin_step()
        self._gradients.begin_step()
        targets = [_resized(batch.targets, size) for batch in micro_batches]
        losses = self._back_propagate_together(targets) if self._train.sync_bn else self._back_propagate(targets)
        sync_seconds = self._sync_clock.seconds_since_own()
        losses_LT = torch.stack(losses)
        norm = self._clip() if self.schedule.updates_at(step) else None
        dropped = self.guard.drops(step, losses_LT, norm)
        if dropped is not None:
            self._drop()
            return StepResult(losses_LT.sum(dim=0), None, sync_seconds, dropped)
        self._statistics.end_step()
        if norm is not None:
            self._update(updates + 1)
        return StepResult(losses_LT.sum(dim=0), norm, sync_seconds)

    def _back_propagate(self, micro_batches: Sequence[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
        """One after the other; returns the terms of their losses."""
        losses: list[torch.Tensor] = []
        for index, targets in enumerate(micro_batches):
            is_last = index == len(micro_batches) - 1
            with self.precision.autocast():
                loss, terms = compute_loss(self._forward, targets)
            # Layers go back in the precision they went forward in; under autocast the loss would go back in bfloat16.
            with self._gradients.travelling() if is_last else contextlib.nullcontext():
                torch.autograd.backward(loss)
            losses.append(terms)
            self._statistics.after_micro_batch()
        return losses

    def _back_propagate_together(self, micro_batches: Sequence[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
        """All in one pass: layers see the whole part of the global batch that is this worker's."""
        with self.precision.autocast():
            losses = compute_joint_losses(self._forward, micro_batches)
        with self._gradients.travelling():
            torch.autograd.backward(torch.stack([loss for loss, _ in losses]).sum())
        self._statistics.after_micro_batch()
        return [terms for _, terms in losses]

    def _clip(self) -> torch.Tensor:
        return nn.utils.clip_grad_norm_(self._trainable, self._train.clip_norm)

    def _update(self, number: int) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        self.average.update(number)

    def _drop(self) -> None:
        """Leave no trace of a step but lost gradients, also those of earlier batches that it would have added to."""
        self._statistics.drop_step()
        self.optimizer.zero_grad(set_to_none=False)


def _compiled(model: nn.Module, train: TrainConfig) -> nn.Module:
    sizes = int(2 * train.multi_scale * train.imgsz / STRIDE) + 2
    # Beyond its limit torch runs what is new uncompiled, so the weights would depend on which sizes came first.
    torch._dynamo.config.recompile_limit = sizes * (1 + len(train.freeze_schedule)) + 8
    torch._inductor.config.deterministic = torch.are_deterministic_algorithms_enabled()
    return cast("nn.Module", torch.compile(model, dynamic=False))


def image_size_of(train: TrainConfig, step: int) -> int:
    """The side of this step's training images: imgsz, or a size around it that only depends on seed and step."""
    if not train.multi_scale:
        return train.imgsz
    rng = np.random.default_rng([train.seed, step])
    low = int(train.imgsz * (1.0 - train.multi_scale))
    high = int(train.imgsz * (1.0 + train.multi_scale)) + STRIDE
    return max(int(rng.integers(low, high)) // STRIDE * STRIDE, STRIDE)


def _resized(targets: dict[str, torch.Tensor], size: int) -> dict[str, torch.Tensor]:
    if targets["img"].shape[-1] == size:
        return targets
    image = nn.functional.interpolate(targets["img"], size=(size, size), mode="bilinear", align_corners=False)
    return {**targets, "img": image}
