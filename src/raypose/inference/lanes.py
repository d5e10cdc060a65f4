"""Twins of a predictor, one for each thread that keeps its device busy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Generic, Protocol, Self, TypeVar

import torch


class Twinned(Protocol):
    """What can be called in `lanes` threads at a time, in each of them through a twin of its own."""

    @property
    def lanes(self) -> int: ...

    def twin(self) -> Self: ...


P = TypeVar("P", bound=Twinned)


class Lanes(Generic[P]):
    """Twins to take turns with."""

    def __init__(self, predictor: P) -> None:
        self._idle: SimpleQueue[P] = SimpleQueue()
        for _ in range(predictor.lanes):
            self._idle.put(predictor.twin())

    @contextmanager
    def one(self) -> Iterator[P]:
        """A twin that is free, in a thread that computes alone from now on, so that sums do not depend on cores."""
        torch.set_num_threads(1)
        lane = self._idle.get()
        try:
            yield lane
        finally:
            self._idle.put(lane)


@contextmanager
def lanes_of(predictor: P) -> Iterator[Lanes[P]]:
    """Its twins, for as long as the block lasts."""
    threads = torch.get_num_threads()
    try:
        yield Lanes(predictor)
    finally:
        # What a thread sets for itself is also what threads to come start with.
        torch.set_num_threads(threads)
