"""What BatchNorm keeps of a step, put together from virtual workers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from raypose.engine.batchnorm import VirtualBatchNorm
from raypose.engine.world import World


class _Counted(TorchDispatchMode):
    """Counts the operations that a GPU would launch kernels for."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return operation(*args, **(kwargs or {}))


def layers(count: int) -> nn.Module:
    return nn.Sequential(*(nn.BatchNorm2d(2) for _ in range(count)))


def operations_of_a_step(model: nn.Module) -> int:
    statistics = VirtualBatchNorm(model, 1, World())
    with _Counted() as counted:
        statistics.begin_step()
        statistics.after_micro_batch()
    return counted.operations


def test_a_model_of_many_layers_takes_no_more_operations() -> None:
    """On a GPU each is a launch, and the program is what small models wait for."""
    assert operations_of_a_step(layers(50)) == operations_of_a_step(layers(1))


def test_a_second_step_starts_from_what_the_first_has_kept() -> None:
    layer = nn.BatchNorm2d(2)
    statistics = VirtualBatchNorm(layer, 2, World())
    expected = torch.zeros(2)
    for step in range(3):
        images = [torch.rand(4, 2, 3, 3) + step, torch.rand(4, 2, 3, 3) - step]
        statistics.begin_step()
        for image in images:
            layer(image)
            statistics.after_micro_batch()
        statistics.end_step()
        expected = 0.9 * expected + 0.1 * torch.stack([image.mean((0, 2, 3)) for image in images]).mean(0)
        torch.testing.assert_close(layer.running_mean, expected)
        assert layer.num_batches_tracked == step + 1
