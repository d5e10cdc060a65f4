"""Which samples each virtual worker sees in each step: a pure function of sizes, seed and step.

All samples of all epochs form one stream. Position i of the stream belongs to epoch i // N and, as far as counts go,
to lane i mod V; so after M positions lane v holds ceil((M - v) / V) of them and no lane is ever more than one
sample ahead. *Which* samples a lane holds is decided once an epoch: the shards are permuted, their samples laid end
to end in a ring, the ring turned by a random offset and cut into one contiguous piece for each lane. Inside its
piece a lane shuffles window by window.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from raypose.data.ring import SAMPLE, WINDOW_ORDER, Ring, random_order
from raypose.errors import ConfigError, DataError
from raypose.structures import IntArray

T = TypeVar("T")

REFERENCE = np.dtype(
    [("epoch", np.int32), ("shard", np.int32), ("index", np.int64), ("lane", np.int32), ("window", np.int64)]
)
"""A SampleRef as a record of an array."""


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


def sample_refs(records: NDArray[np.void]) -> tuple[SampleRef, ...]:
    """REFERENCE records as objects."""
    return tuple(itertools.starmap(SampleRef, records.tolist()))


def sample_rng(seed: int, ref: SampleRef) -> np.random.Generator:
    """Source of every random choice made for this sample in this epoch, whoever reads it and when."""
    return np.random.default_rng((seed, SAMPLE, ref.epoch, ref.shard, ref.index))


class Plan:
    """The order of a whole run. Equal arguments make equal plans, on any machine and in any process.

    `lanes` is the number of virtual workers, `window` the samples that a lane shuffles together at most.
    Memory grows with the number of shards and, for each lane that is read, with `window`, not with samples.
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
        self._shard_type = np.min_scalar_type(len(self._sizes))
        self._index_type = np.min_scalar_type(int(self._sizes.max()))
        self._rings: _Recent[Ring] = _Recent(keep=2)
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
        return sample_refs(self.read(lane, step * self.micro_batch, self.micro_batch))

    def read(self, lane: int, first: int, count: int) -> NDArray[np.void]:
        """Samples `first` to `first + count` of a lane, counted through all epochs, as REFERENCE records."""
        parts = []
        while count > 0:
            epoch, place = self._place_of(lane, first)
            part = self._window(epoch, lane, place.number).records_at(
                slice(first - place.start, first - place.start + count)
            )
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def prepare(self, lane: int, item: int) -> int:
        """Shuffle the window that holds this sample of a lane, counted through all epochs; the first one after it."""
        epoch, place = self._place_of(lane, item)
        self._window(epoch, lane, place.number)
        return place.stop

    def partners(self, ref: SampleRef, rng: np.random.Generator, count: int) -> tuple[SampleRef, ...]:
        """`count` samples drawn with replacement from the window that `ref` was shuffled in."""
        window = self._window(ref.epoch, ref.lane, ref.window)
        return sample_refs(window.records_at(rng.integers(len(window.shards), size=count)))

    def shards_ahead(self, step: int, lane: int) -> Iterator[ShardUse]:
        """The shards that a lane needs from `step` on, in the order of their first steps, without end.

        Each comes once each time the lane passes it: once an epoch, or twice where the lane's piece of the ring ends in
        the shard it began in. All shards of a window are needed from its first step on, because of partners.
        No window is shuffled for this.
        """
        item = step * self.micro_batch
        first_epoch, place = self._place_of(lane, item)
        for epoch in itertools.count(first_epoch):
            before, size = self._lane_count(lane, epoch), self._piece_size(lane, epoch)
            start = place.start - before if epoch == first_epoch else 0
            position = self._piece_start(lane, epoch) + start
            for shard, first, stop in self._ring(epoch).runs(position, size - start):
                first_item = self._place(lane, epoch, start + first).start
                last_item = self._place(lane, epoch, start + stop - 1).stop - 1
                yield ShardUse(shard, max(step, first_item // self.micro_batch), last_item // self.micro_batch)

    def shards_needed(self, step: int, lane: int) -> frozenset[int]:
        """The shards of the windows that a lane reads from in this step: all that its samples and partners lie in."""
        return frozenset(
            use.shard for use in itertools.takewhile(lambda use: use.first_step <= step, self.shards_ahead(step, lane))
        )

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

    def _place_of(self, lane: int, item: int) -> tuple[int, _Place]:
        epoch = (item * self.lanes + lane) // self.samples
        return epoch, self._place(lane, epoch, item - self._lane_count(lane, epoch))

    def _place(self, lane: int, epoch: int, offset: int) -> _Place:
        """The window that holds the sample at `offset` of a lane's piece."""
        size = self._piece_size(lane, epoch)
        number = ((offset + 1) * _ceil_div(size, self.window) - 1) // size
        start, stop = self._window_bounds(size, number)
        before = self._lane_count(lane, epoch)
        return _Place(number, before + start, before + stop)

    def _window_bounds(self, piece_size: int, number: int) -> tuple[int, int]:
        """Windows of equal size, so that none is left with a sample or two that could only be its own partner."""
        windows = _ceil_div(piece_size, self.window)
        return number * piece_size // windows, (number + 1) * piece_size // windows

    def _window(self, epoch: int, lane: int, number: int) -> _Window:
        recent = self._windows.setdefault(lane, _Recent(keep=2))
        return recent.get((epoch, number), lambda: self._make_window(epoch, lane, number))

    def _make_window(self, epoch: int, lane: int, number: int) -> _Window:
        start, stop = self._window_bounds(self._piece_size(lane, epoch), number)
        shards, indices = self._ring(epoch).locate(self._piece_start(lane, epoch) + start, stop - start)
        order = random_order((self.seed, WINDOW_ORDER, epoch, lane, number), stop - start)
        return _Window(
            epoch,
            lane,
            number,
            shards.astype(self._shard_type).take(order),
            indices.astype(self._index_type).take(order),
        )

    def _ring(self, epoch: int) -> Ring:
        return self._rings.get(epoch, lambda: Ring.turn(self._sizes, self.seed, epoch))


@dataclass(frozen=True, slots=True)
class _Place:
    """Window `number` of a lane's piece holds samples `start` to `stop` of the lane, counted through all epochs."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Window:
    """Samples in the order a lane reads them. In the narrowest types: there are two windows for each lane."""

    epoch: int
    lane: int
    number: int
    shards: NDArray[np.unsignedinteger]
    indices: NDArray[np.unsignedinteger]

    def records_at(self, places: slice | IntArray) -> NDArray[np.void]:
        shards = self.shards[places]
        records = np.empty(len(shards), REFERENCE)
        records["epoch"] = self.epoch
        records["shard"] = shards
        records["index"] = self.indices[places]
        records["lane"] = self.lane
        records["window"] = self.number
        return records


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


def _ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)
