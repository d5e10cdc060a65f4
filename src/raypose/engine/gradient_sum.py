"""Gradients of all workers added up, while the backward pass still computes others.

As torch's DistributedDataParallel does it, but for two things. Where a gradient lies in what is sent never changes:
over three workers or more that decides in which order numbers are added, and DistributedDataParallel moves gradients
after its first step, so that a run which restarts parts from one that does not. And it adds up, as Ultralytics does
over GPUs, instead of taking the mean.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raypose.engine.world import World

BUCKET_BYTES = 8 << 20
"""Sent at a time: enough to keep a network busy, and little enough that the last one, which nothing hides, is quick."""


@dataclass(slots=True)
class _Bucket:
    """Gradients that travel together: `flat_N` holds them, and each parameter's `grad` is a view of it."""

    flat_N: Tensor
    parameters: int
    missing: int = 0
    """Parameters whose gradient is not there yet."""
    work: dist.Work | None = None


class GradientSum:
    """The gradients of a model's trainable parameters, added up over workers once a step; nothing for one worker alone.

    Made by all workers at the same time, which then have the leader's parameters. Gradients travel once the last
    backward pass of a step is over or, if `early`, as soon as they are there.
    """

    def __init__(self, model: nn.Module, world: World, *, early: bool) -> None:
        self._world = world
        self._early = early
        self._buckets: list[_Bucket] = []
        self._sent = 0
        self._travels = False
        self._hooks: list[RemovableHandle] = []
        if world.size == 1:
            return
        for tensor in model.state_dict().values():
            dist.broadcast(tensor.as_strided((tensor.numel(),), (1,)), src=0)  # in whatever order it lies in memory
        # Backward comes to the last layers first.
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad][::-1]
        for parameters in _cut(trainable):
            self._add_bucket(parameters)

    def begin_step(self) -> None:
        """Before the first backward pass of a step. What earlier steps have added up, the leader alone brings along."""
        if not self._world.is_leader:
            for bucket in self._buckets:
                bucket.flat_N.zero_()

    @contextlib.contextmanager
    def travelling(self) -> Iterator[None]:
        """The backward pass inside is the last one of a step: when it is left, all workers have the sum."""
        self._sent = 0
        for bucket in self._buckets:
            bucket.missing, bucket.work = bucket.parameters, None
        self._travels = True
        try:
            yield
        finally:
            self._travels = False
        for bucket in self._buckets[self._sent :]:  # not every parameter has to get a gradient
            self._send(bucket)
        for bucket in self._buckets:
            assert bucket.work is not None
            bucket.work.wait()

    def close(self) -> None:
        """Let go of the model."""
        for hook in self._hooks:
            hook.remove()

    def _add_bucket(self, parameters: Sequence[nn.Parameter]) -> None:
        first = parameters[0]
        flat_N = torch.zeros(sum(map(torch.numel, parameters)), dtype=first.dtype, device=first.device)
        number, offset = len(self._buckets), 0
        for parameter in parameters:
            # Laid out in memory as the parameter is, or adding to it and the optimizer would be slow.
            view = flat_N.as_strided(parameter.shape, parameter.stride(), offset)
            if parameter.grad is not None:
                view.copy_(parameter.grad)
            parameter.grad = view
            offset += parameter.numel()
            if not self._early:
                continue
            hook = parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                lambda _, number=number: self._arrived(number)
            )
            self._hooks.append(hook)
        self._buckets.append(_Bucket(flat_N, len(parameters)))

    def _arrived(self, number: int) -> None:
        if not self._travels:
            return
        self._buckets[number].missing -= 1
        # In one order everywhere, or workers would add up different buckets.
        while self._sent < len(self._buckets) and not self._buckets[self._sent].missing:
            self._send(self._buckets[self._sent])

    def _send(self, bucket: _Bucket) -> None:
        bucket.work = dist.all_reduce(bucket.flat_N, async_op=True)
        self._sent += 1


def _cut(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """In their order, of one type and on one device each; what is larger than BUCKET_BYTES is alone."""
    bucket: list[nn.Parameter] = []
    size_bytes = 0
    for parameter in parameters:
        is_alike = not bucket or (parameter.dtype, parameter.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and (size_bytes + parameter.nbytes > BUCKET_BYTES or not is_alike):
            yield bucket
            bucket, size_bytes = [], 0
        bucket.append(parameter)
        size_bytes += parameter.nbytes
    if bucket:
        yield bucket
