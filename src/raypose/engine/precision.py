"""Which arithmetic a run uses, decided once and said out loud."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

import torch

from raypose.engine.world import World
from raypose.errors import ConfigError
from raypose.model import multiplies_bfloat16


@dataclass(frozen=True, slots=True)
class Precision:
    """bfloat16 autocast or float32. Weights, gradients and optimizer are float32 in both.

    float32 is PyTorch's: GPUs that have TF32 multiply in it in convolutions.
    """

    name: Literal["float32", "bfloat16"]
    device_type: str

    @classmethod
    def choose(cls, wanted: str, device: str) -> Precision:
        """`auto` takes bfloat16 only where the hardware multiplies it natively; asking for it elsewhere is refused."""
        device_type = torch.device(device).type
        native = multiplies_bfloat16(device_type)
        if wanted == "bfloat16" and not native:
            raise ConfigError(
                f"train.precision: bfloat16, but this {device_type} has no native bfloat16 arithmetic;"
                " use auto or float32"
            )
        return cls("bfloat16" if native and wanted != "float32" else "float32", device_type)

    @classmethod
    def agreed(cls, wanted: str, world: World) -> Precision:
        """What all workers compute in: on nodes of several kinds, `auto` is what the least of them can do."""
        own = cls.choose(wanted, world.device)
        names = world.gather(own.name)
        return cls(world.from_leader("float32" if names and "float32" in names else "bfloat16"), own.device_type)

    @property
    def is_bfloat16_on_cpu(self) -> bool:
        """Whether layers compute in bfloat16, and on a CPU."""
        return (self.name, self.device_type) == ("bfloat16", "cpu")

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """The context in which forward passes run."""
        if self.name == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device_type, dtype=torch.bfloat16)
