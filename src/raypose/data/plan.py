"""Which samples each virtual worker sees in each step: a pure function of sizes, seed and step.

All samples of all epochs form one stream. Position i of the stream belongs to epoch i // N and, as far as counts go,
to lane i mod V; so after M positions lane v holds ceil((M - v) / V) of them and no lane is ever more than one
sample ahead. *Which* samples a lane holds is decided once an epoch: the shards are permuted, their samples laid end
to end in a ring, the ring turned by a random offset and cut into one contiguous piece for each lane. Inside its
piece a lane shuffles window by window.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
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


@dataclass(frozen=True, slots=True)
class ShardUse:
    """A lane needs `shard` from `first_step` to `last_step`: it reads it, or may draw partners from it."""

    shard: int
    first_step: int
    last_step: int


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

    def shards_ahead(self, step: int, lane: int) -> Iterator[ShardUse]:
        """The shards that a lane needs from `step` on, in the order of their first steps, without end.

        Each comes once each time the lane passes it: once an epoch, or twice where the lane's piece of the ring ends in
        the shard it began in. All shards of a window are needed from its first step on, because of partners.
        No window is shuffled for this.
        """
        item = step * self.micro_batch
        first_epoch = (item * self.lanes + lane) // self.samples
        place = self._place(lane, first_epoch, item - self._lane_count(lane, first_epoch))
        for epoch in count(first_epoch):
            size = self._piece_size(lane, epoch)
            before = self._lane_count(lane, epoch)
            start = place.start if epoch == first_epoch else 0
            for shard, first, last in self._ring(epoch).runs(self._piece_start(lane, epoch), start, size):
                first_item = before + self._place(lane, epoch, first).start
                last_item = before + self._place(lane, epoch, last).stop - 1
                yield ShardUse(shard, max(step, first_item // self.micro_batch), last_item // self.micro_batch)

    def shards_needed(self, step: int, lane: int) -> frozenset[int]:
        """The shards of the windows that a lane reads from in this step: all that its samples and partners lie in."""
        return frozenset(
            use.shard for use in takewhile(lambda use: use.first_step <= step, self.shards_ahead(step, lane))
        )

    def _lane_item(self, lane: int, item: int) -> SampleRef:
        epoch = (item * self.lanes + lane) // self.samples
        offset = item - self._lane_count(lane, epoch)
        place = self._place(lane, epoch, offset)
        return self._window(epoch, lane, place.number).ref(offset - place.start)

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

    def _place(self, lane: int, epoch: int, offset: int) -> _Place:
        """The window that holds the sample at `offset` of a lane's piece."""
        size = self._piece_size(lane, epoch)
        windows = _ceil_div(size, self.window)
        number = ((offset + 1) * windows - 1) // size
        return self._window_place(size, number)

    def _window_place(self, size: int, number: int) -> _Place:
        windows = _ceil_div(size, self.window)
        # Windows of equal size, so that none is left with a sample or two that could only be its own partner.
        return _Place(number, number * size // windows, (number + 1) * size // windows)

    def _window(self, epoch: int, lane: int, number: int) -> _Window:
        recent = self._windows.setdefault(lane, _Recent(keep=2))
        return recent.get((epoch, number), lambda: self._make_window(epoch, lane, number))

    def _make_window(self, epoch: int, lane: int, number: int) -> _Window:
        place = self._window_place(self._piece_size(lane, epoch), number)
        bits = _random_bits((self.seed, _WINDOW_ORDER, epoch, lane, number), place.stop - place.start)
        order = np.argsort(bits, kind="stable")
        shards, indices = self._ring(epoch).locate(self._piece_start(lane, epoch) + place.start + order)
        return _Window(epoch, lane, number, shards, indices)

    def _ring(self, epoch: int) -> _Ring:
        return self._rings.get(epoch, lambda: _Ring.turn(self._sizes, self.seed, epoch))


@dataclass(frozen=True, slots=True)
class _Place:
    """Window `number` of a lane's piece: the offsets `start` to `stop`, counted from the start of the piece."""

    number: int
    start: int
    stop: int


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

    def runs(self, piece_start: int, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The shards below offsets `start` to `stop` of a piece, each with its first and last offset there."""
        while start < stop:
            laid = (piece_start + start + self.offset) % int(self.ends[-1])
            slot = int(np.searchsorted(self.ends, laid, side="right"))
            after = min(stop, start + int(self.ends[slot]) - laid)
            yield int(self.shard_order[slot]), start, after - 1
            start = after


@dataclass(frozen=True, slots=True)
class _Window:
    """Samples in the order a lane reads them."""

    epoch: int
    lane: int
    number: int
    shards: IntArray
    indices: IntArray

    def ref(self, offset: int) -> SampleRef:
        return SampleRef(self.epoch, int(self.shards[offset]), int(self.indices[offset]), self.lane, self.number)


class _Recent(Generic[T]):
    """Remembers the values used last: reading in order computes each once, random access stays right.

    What is remembered is replaced as a whole, never changed: threads that read ahead and threads that read along may
    share a plan. At worst two of them compute the same value.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._entries: tuple[tuple[Hashable, T], ...] = ()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        entries = self._entries
        if entries and entries[0][0] == key:
            return entries[0][1]
        value = next((value for known, value in entries if known == key), None)
        if value is None:
            value = make()
        self._entries = ((key, value), *(entry for entry in entries if entry[0] != key))[: self._keep]
        return value


def _random_bits(entropy: tuple[int, ...], size: int) -> NDArray[np.uint64]:
    """Random 64-bit words, to be sorted into a permutation.

    Not `Generator.permutation`: NumPy promises that bit streams never change, but not what its distributions make of
    them, and a run must survive an upgrade.
    """
    return np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(size)


def _ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)
