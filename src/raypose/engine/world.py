"""One process's place among the workers. Every question about ranks is answered here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class World:
    """Rank, size and device. The process group of more than one worker must be initialised by whoever makes it."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    local_size: int = 1
    """How many of the workers are on this node, this one included."""

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    def lanes(self, total: int) -> range:
        """This worker's share of `total` virtual workers."""
        return self.share(total)

    def share(self, count: int) -> range:
        """This worker's contiguous share of `count` pieces of work; shares differ by at most one."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather(self, value: Value) -> list[Value] | None:
        """Every worker's value, in order of ranks, on the leader; None elsewhere."""
        if self.size == 1:
            return [value]
        received: list[Value | None] | None = [None] * self.size if self.is_leader else None
        dist.gather_object(value, received, dst=0)
        return cast("list[Value] | None", received)

    def from_leader(self, value: Value) -> Value:
        """The leader's value, on every worker."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def finish_queued(self) -> None:
        """Wait until the device has done what it was told so far; a CPU has."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)

    def add_up(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over all workers, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor
