"""Running BatchNorm statistics that do not depend on how virtual workers are shared out.

Each virtual worker normalises by its own micro-batch, as each GPU does in plain data parallelism. What the layers
keep is the mean over the virtual workers of what each of them would have kept, had it started from the same
statistics. Run one after the other in one process they would see each other's updates; spread over processes
they would not. So the statistics are put back before every micro-batch and averaged at the end of the step.
"""

from __future__ import annotations

import torch
from torch import nn

from raypose.engine.world import World


class VirtualBatchNorm:
    """Wraps the running means and variances of a model for the length of a step."""

    def __init__(self, model: nn.Module, lanes: int, world: World) -> None:
        layers = [
            module
            for module in model.modules()
            # Frozen layers are in evaluation mode and keep what they have.
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        ]
        self._running = [
            buffer for layer in layers for buffer in (layer.running_mean, layer.running_var) if buffer is not None
        ]
        self._counts = [layer.num_batches_tracked for layer in layers if layer.num_batches_tracked is not None]
        self._lanes = lanes
        self._world = world
        # Always the same memory, filled by one call for all layers: on a GPU each call costs a launch.
        self._start = [torch.empty_like(buffer) for buffer in self._running]
        self._start_counts = [torch.empty_like(count) for count in self._counts]
        self._sums = [torch.empty_like(buffer) for buffer in self._running]

    @torch.no_grad()
    def begin_step(self) -> None:
        """Remember where all virtual workers of this step start from."""
        if self._running:
            torch._foreach_copy_(self._start, self._running)
            torch._foreach_copy_(self._start_counts, self._counts)
            torch._foreach_zero_(self._sums)

    @torch.no_grad()
    def after_micro_batch(self) -> None:
        """Take one virtual worker's statistics and put the start back for the next."""
        if self._running:
            torch._foreach_add_(self._sums, self._running)
            torch._foreach_copy_(self._running, self._start)

    @torch.no_grad()
    def drop_step(self) -> None:
        """In place of `end_step`: the statistics stay what they were before the step."""
        if self._running:  # the means and variances were put back after each micro-batch
            torch._foreach_copy_(self._counts, self._start_counts)

    @torch.no_grad()
    def end_step(self) -> None:
        """Keep the mean over all virtual workers of all processes."""
        if not self._running:
            return
        # Nothing reads the count of batches while there is a momentum, but it is in every checkpoint: count steps.
        torch._foreach_copy_(self._counts, self._start_counts)
        torch._foreach_add_(self._counts, 1)
        flat = self._world.add_up(torch.cat([total.flatten() for total in self._sums])) / self._lanes
        pieces = torch.split(flat, [buffer.numel() for buffer in self._running])
        torch._foreach_copy_(
            self._running, [piece.view_as(buffer) for piece, buffer in zip(pieces, self._running, strict=True)]
        )
