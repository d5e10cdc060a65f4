"""One epoch's shards in random order, laid end to end; and the random orders that it and the windows of lanes need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raypose.structures import IntArray

EPOCH_ORDER, WINDOW_ORDER, SAMPLE = range(3)
"""Keep the random streams of equal numbers but different purpose apart."""


@dataclass(frozen=True, slots=True)
class Ring:
    """One epoch's shards in their order, laid end to end and turned by `offset`. S shards, some of them empty."""

    shard_S: IntArray
    start_S: IntArray
    stop_S: IntArray
    offset: int

    @classmethod
    def turn(cls, size_S: IntArray, seed: int, epoch: int) -> Ring:
        bits = random_bits((seed, EPOCH_ORDER, epoch), len(size_S) + 1)
        shard_S = sort_order(bits[:-1])
        turned_size_S = size_S[shard_S]
        stop_S = np.cumsum(turned_size_S)
        return cls(shard_S, stop_S - turned_size_S, stop_S, int(bits[-1]) % int(stop_S[-1]))

    def locate(self, position: int, length: int) -> tuple[IntArray, IntArray]:
        """Shard and index within it of each sample of a stretch of the ring, at most once round."""
        first, last = self._laid(position), self._laid(position + length - 1)
        first_slot, last_slot = (int(np.searchsorted(self.stop_S, laid, side="right")) for laid in (first, last))
        slot_R = np.arange(first_slot, last_slot + 1)
        if first + length > self.stop_S[-1]:
            slot_R = np.concatenate([np.arange(first_slot, len(self.stop_S)), np.arange(last_slot + 1)])
        size_R = self.stop_S[slot_R] - self.start_S[slot_R]
        # Where each of the R shards would begin, counted from the start of the stretch: the first one lies before it.
        begin_R = np.cumsum(size_R) - size_R + (self.start_S[first_slot] - first)
        taken_R = np.maximum(np.minimum(begin_R + size_R, length) - np.maximum(begin_R, 0), 0)
        return np.repeat(self.shard_S[slot_R], taken_R), np.arange(length) - np.repeat(begin_R, taken_R)

    def runs(self, position: int, length: int) -> Iterator[tuple[int, int, int]]:
        """The shards below a stretch, each with its first sample and the one after its last, counted in the stretch."""
        start = 0
        while start < length:
            laid = self._laid(position + start)
            slot = int(np.searchsorted(self.stop_S, laid, side="right"))
            stop = min(length, start + int(self.stop_S[slot]) - laid)
            yield int(self.shard_S[slot]), start, stop
            start = stop

    def _laid(self, position: int) -> int:
        return (position + self.offset) % int(self.stop_S[-1])


def random_order(entropy: tuple[int, ...], size: int) -> IntArray:
    """A permutation of `size` numbers.

    Not `Generator.permutation`: NumPy promises that bit streams never change, but not what its distributions make of
    them, and a run must survive an upgrade.
    """
    return sort_order(random_bits(entropy, size))


def random_bits(entropy: tuple[int, ...], size: int) -> NDArray[np.uint64]:
    """Random 64-bit words."""
    return np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(size)


def sort_order(bits: NDArray[np.uint64]) -> IntArray:
    """The stable argsort of random words, in a third of NumPy's time for 8,192 of them.

    NumPy sorts 16-bit words by radix, so two or three passes over the upper bits do, unless two words agree in those.
    """
    shifts = (32, 48) if len(bits) <= 2**13 else (16, 32, 48)
    order = np.arange(len(bits))
    for shift in shifts:
        digits = (bits >> np.uint64(shift)).astype(np.uint16)
        order = order.take(np.argsort(digits.take(order), kind="stable"))
    ranked = bits.take(order)
    return np.argsort(bits, kind="stable") if (ranked[1:] < ranked[:-1]).any() else order
