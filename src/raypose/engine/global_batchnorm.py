"""BatchNorm over a whole global batch: `train.sync_bn`.

All micro-batches of a worker go through the model together, and its statistics are combined with those of the other
workers in every layer. So what each image is normalised by depends on the global batch alone, neither on the number of
workers nor on that of virtual workers. torch's SyncBatchNorm works on GPUs only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raypose.engine.world import World


def normalise_globally(model: nn.Module, world: World) -> None:
    """Make the model's BatchNorm layers those of all workers together, in place. Names and state stay as they are.

    A worker that is alone needs nothing of the kind: its batch is the global one.
    """
    if world.size == 1:
        return
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = GlobalBatchNorm


class GlobalBatchNorm(nn.BatchNorm2d):
    """A BatchNorm2d whose batch is spread over processes while it trains."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """`input` is this process's part, (B, C, H, W)."""
        if not self.training:
            return super().forward(input)
        # As autocast has it for BatchNorm: statistics in float32, whatever the layers compute in.
        values = input.float()
        own = torch.cat([values.sum((0, 2, 3)), values.new_full((1,), values.numel() / values.shape[1])])
        total = _Sum.apply(own)
        count = total[-1]
        mean = total[:-1] / count
        # In a second round, because a difference of squares would round a small variance away.
        deviation = values - mean[:, None, None]
        variance = _Sum.apply(deviation.square().sum((0, 2, 3))) / count
        self._keep(mean.detach(), (variance * count / (count - 1)).detach())
        normal = deviation * torch.rsqrt(variance + self.eps)[:, None, None]
        scaled: Tensor = normal * self.weight[:, None, None] + self.bias[:, None, None]
        return scaled.to(input.dtype)

    def _keep(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None  # Ultralytics gives all of its layers one
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs, for each of them has used it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
