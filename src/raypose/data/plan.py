"""Which samples each virtual worker sees in each step: a pure function of sizes, seed and step.

All samples of all epochs form one stream. Position i of the stream belongs to epoch i // N and, as far as counts go,
to lane i mod V; so after M positions lane v holds ceil((M - v) / V) of them and no lane is ever more than one
sample ahead. *Which* samples a lane holds is decided once an epoch: the shards are permuted, their samples laid end
to end in a ring, the ring turned by a random offset and cut into one contiguous piece for each lane. Inside its
piece a lane shuffles window by window.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from raypose.errors import ConfigError, DataError
from raypose.structures import IntArray

T = TypeVar("T")

_EPOCH_ORDER, _WINDOW_ORDER, _SAMPLE = range(3)
"""Keep the random streams of equal numbers but different purpose apart."""


@dataclass(frozen=True, slots=True)
class SampleRef:
    """One sample of one epoch; `lane` and `window` say with whom it was shuffled."""

    epoch: int
    shard: int
    index: int
    lane: int
    window: int


def sample_rng(seed: int, ref: SampleRef) -> np.random.Generator:
    """Source of every random choice made for this sample in this epoch, whoever reads it and when."""
    return np.random.default_rng((seed, _SAMPLE, ref.epoch, ref.shard, ref.index))


class Plan:
    """The order of a whole run. Equal arguments make equal plans, on any machine and in any process.

    `lanes` is the number of virtual workers, `window` the samples that a lane shuffles together at most.
    Memory grows with the number of shards and with `window`, not with samples.
    """

    def __init__(self, shard_sizes: Sequence[int], *, seed: int, batch: int, lanes: int, window: int) -> None:
        if lanes < 1 or batch < 1 or batch % lanes:
            raise ConfigError(f"plan: a batch of {batch} cannot be divided among {lanes} lanes; use a multiple of them")
        if window < 1:
            raise ConfigError(f"plan: window is {window}, expected at least 1 sample")
        self._sizes = np.asarray(shard_sizes, np.int64)
        self.samples = int(self._sizes.sum())
        if self.samples == 0:
            raise DataError(f"plan: {len(self._sizes)} shards hold no samples; training needs at least one")
        self.seed = seed
        self.batch = batch
        self.lanes = lanes
        self.window = window
        self._rings: _Recent[_Ring] = _Recent(keep=2)
        self._windows: dict[int, _Recent[_Window]] = {}

    @property
    def micro_batch(self) -> int:
        """Samples of one lane in one step."""
        return self.batch // self.lanes

    def steps_of(self, epochs: int) -> int:
        """Steps until `epochs` epochs are complete; the last batch borrows from the epoch that would follow."""
        return _ceil_div(epochs * self.samples, self.batch)

    def epoch_end_step(self, epoch: int) -> int:
        """The first number of steps after which this (0-based) epoch is complete."""
        return self.steps_of(epoch + 1)

    def epochs_completed(self, step: int) -> int:
        """Whole epochs seen after `step` steps."""
        return step * self.batch // self.samples

    def references(self, step: int, lane: int) -> tuple[SampleRef, ...]:
        """The samples of one lane's micro-batch in the (0-based) step."""
        first = step * self.micro_batch
        return tuple(self._lane_item(lane, item) for item in range(first, first + self.micro_batch))

    def partners(self, ref: SampleRef, rng: np.random.Generator, count: int) -> tuple[SampleRef, ...]:
        """`count` samples drawn with replacement from the window that `ref` was shuffled in."""
        window = self._window(ref.epoch, ref.lane, ref.window)
        return tuple(window.ref(int(offset)) for offset in rng.integers(len(window.shards), size=count))

    def _lane_item(self, lane: int, item: int) -> SampleRef:
        epoch = (item * self.lanes + lane) // self.samples
        offset = item - self._lane_count(lane, epoch)
        size = self._piece_size(lane, epoch)
        number = ((offset + 1) * self._window_count(size) - 1) // size
        window = self._window(epoch, lane, number)
        return window.ref(offset - window.start)

    def _lane_count(self, lane: int, epochs: int) -> int:
        """Samples that a lane holds of the first `epochs` epochs: ceil((M - v) / V)."""
        return _ceil_div(epochs * self.samples - lane, self.lanes)

    def _piece_size(self, lane: int, epoch: int) -> int:
        return self._lane_count(lane, epoch + 1) - self._lane_count(lane, epoch)

    def _piece_start(self, lane: int, epoch: int) -> int:
        """Where a lane's piece begins in the ring: the sizes of all pieces before it, summed in closed form."""
        before, after = (
            positions // self.lanes * lane + min(positions % self.lanes, lane)
            for positions in (epoch * self.samples, (epoch + 1) * self.samples)
        )
        return after - before

    def _window_count(self, piece_size: int) -> int:
        return _ceil_div(piece_size, self.window)

    def _window(self, epoch: int, lane: int, number: int) -> _Window:
        recent = self._windows.setdefault(lane, _Recent(keep=2))
        return recent.get((epoch, number), lambda: self._make_window(epoch, lane, number))

    def _make_window(self, epoch: int, lane: int, number: int) -> _Window:
        size = self._piece_size(lane, epoch)
        count = self._window_count(size)
        # Windows of equal size, so that none is left with a sample or two that could only be its own partner.
        start, stop = number * size // count, (number + 1) * size // count
        order = np.argsort(_random_bits((self.seed, _WINDOW_ORDER, epoch, lane, number), stop - start), kind="stable")
        ring = self._rings.get(epoch, lambda: _Ring.turn(self._sizes, self.seed, epoch))
        shards, indices = ring.locate(self._piece_start(lane, epoch) + start + order)
        return _Window(epoch, lane, number, start, shards, indices)


@dataclass(frozen=True, slots=True)
class _Ring:
    """One epoch's shards in their order, laid end to end and turned by `offset`."""

    shard_order: IntArray
    ends: IntArray
    offset: int

    @classmethod
    def turn(cls, sizes: IntArray, seed: int, epoch: int) -> _Ring:
        bits = _random_bits((seed, _EPOCH_ORDER, epoch), len(sizes) + 1)
        order = np.argsort(bits[:-1], kind="stable")
        ends = np.cumsum(sizes[order])
        return cls(order, ends, int(bits[-1]) % int(ends[-1]))

    def locate(self, positions: IntArray) -> tuple[IntArray, IntArray]:
        """Shard and index within it of ring positions."""
        laid = (positions + self.offset) % self.ends[-1]
        slots = np.searchsorted(self.ends, laid, side="right")
        shards = self.shard_order[slots]
        starts = np.where(slots > 0, self.ends[slots - 1], 0)
        return shards, laid - starts


@dataclass(frozen=True, slots=True)
class _Window:
    """Samples in the order a lane reads them; `start` counts from the start of the lane's piece."""

    epoch: int
    lane: int
    number: int
    start: int
    shards: IntArray
    indices: IntArray

    def ref(self, offset: int) -> SampleRef:
        return SampleRef(self.epoch, int(self.shards[offset]), int(self.indices[offset]), self.lane, self.number)


class _Recent(Generic[T]):
    """Remembers the values used last: reading in order computes each once, random access stays right."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = make()
        if len(self._values) > self._keep:
            self._values.popitem(last=False)
        return value


def _random_bits(entropy: tuple[int, ...], size: int) -> NDArray[np.uint64]:
    """Random 64-bit words, to be sorted into a permutation.

    Not `Generator.permutation`: NumPy promises that bit streams never change, but not what its distributions make of
    them, and a run must survive an upgrade.
    """
    return np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(size)


def _ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)
