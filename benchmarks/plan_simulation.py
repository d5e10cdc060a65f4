"""What `plan_scale.py` simulates: an epoch sample by sample, and nodes that keep only what their lanes need now."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raypose.data.plan import Plan

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A data set of random shards and a training on it. Nothing here depends on workers or nodes."""

    samples: int
    shards: int
    lanes: int
    micro_batch: int
    window: int
    seed: int = 0

    def shard_samples(self) -> IntArray:
        """Between 80% and 120% of the mean, random, adding up to `samples`."""
        weights = np.random.default_rng((self.seed, 1)).uniform(0.8, 1.2, self.shards)
        ends = np.round(np.cumsum(weights) / weights.sum() * self.samples).astype(np.int64)
        return np.diff(ends, prepend=0)

    def shard_bytes(self) -> IntArray:
        """About 64 MiB each; samples of one shard are larger or smaller than those of another."""
        sizes = self.shard_samples()
        weight = np.random.default_rng((self.seed, 2)).lognormal(0, 0.15, self.shards)
        return np.round(64 * 2**20 * weight * sizes / sizes.mean()).astype(np.int64)

    def plan(self) -> Plan:
        return Plan(
            self.shard_samples(),
            seed=self.seed,
            batch=self.lanes * self.micro_batch,
            lanes=self.lanes,
            window=self.window,
        )


def lanes_of(rank: int, size: int, lanes: int) -> range:
    """`World.lanes`, which `plan_scale.py` holds this against; workers must not load torch to be measured."""
    return range(rank * lanes // size, (rank + 1) * lanes // size)


# Every sample once.


@dataclass(frozen=True, slots=True)
class Coverage:
    """What an epoch holds: samples read, those of them read before, those of the data set that were never read."""

    read: int
    twice: int
    missed: int


def cover_epoch(recipe: Recipe, epoch: int, processes: int) -> Coverage:
    """Reads every lane of an epoch as training does, and marks each sample in a bitmap."""
    parts = [(recipe, epoch, lanes_of(part, processes, recipe.lanes)) for part in range(processes)]
    with ProcessPoolExecutor(processes) as pool:
        marked = list(pool.map(_mark_lanes, parts))
    bitmap = np.zeros_like(marked[0][2])
    twice = 0
    for _, part_twice, part_bitmap in marked:
        twice += part_twice + _bits(bitmap & part_bitmap)
        bitmap |= part_bitmap
    return Coverage(sum(read for read, _, _ in marked), twice, recipe.samples - _bits(bitmap))


def _mark_lanes(part: tuple[Recipe, int, range]) -> tuple[int, int, NDArray[np.uint8]]:
    """Samples read, samples read twice, and the bitmap. Each shard begins with a byte of its own."""
    recipe, epoch, lanes = part
    plan, sizes = recipe.plan(), recipe.shard_samples()
    shard_bytes = -(-sizes // 8)
    byte_starts = np.cumsum(shard_bytes) - shard_bytes
    bitmap = np.zeros(int(shard_bytes.sum()), np.uint8)
    read = twice = 0
    for lane in lanes:
        shards, indices = _read_lane(plan, lane, epoch)
        if (indices >= sizes[shards]).any():
            raise AssertionError(f"lane {lane}: a sample beyond the end of its shard")
        used = np.flatnonzero(np.bincount(shards, minlength=len(sizes)))
        starts = np.zeros(len(sizes), np.int64)
        starts[used] = 8 * (np.cumsum(shard_bytes[used]) - shard_bytes[used])
        marks = np.zeros(8 * int(shard_bytes[used].sum()), np.bool_)
        marks[starts[shards] + indices] = True
        packed = np.packbits(marks)
        read += len(shards)
        twice += len(shards) - int(np.count_nonzero(marks))
        for shard in used.tolist():
            here = bitmap[byte_starts[shard] : byte_starts[shard] + shard_bytes[shard]]
            new = packed[starts[shard] // 8 :][: len(here)]
            twice += _bits(here & new)
            here |= new
    return read, twice, bitmap


def _read_lane(plan: Plan, lane: int, epoch: int, at_once: int = 2**16) -> tuple[IntArray, IntArray]:
    """Shards and indices of a lane's samples of one epoch. Of the first M samples, lane v has ceil((M - v) / V)."""
    first, last = (-(-(epochs * plan.samples - lane) // plan.lanes) for epochs in (epoch, epoch + 1))
    shards, indices = np.empty((2, last - first), np.int64)
    for start in range(first, last, at_once):
        records = plan.read(lane, start, min(at_once, last - start))
        if (records["epoch"] != epoch).any():
            raise AssertionError(f"lane {lane}: epoch {epoch} ends before sample {last}")
        place = slice(start - first, start - first + len(records))
        shards[place], indices[place] = records["shard"], records["index"]
    return shards, indices


def _bits(bitmap: NDArray[np.uint8]) -> int:
    """Bits that are set, counted a piece at a time: unpacked, a billion of them would fill a gigabyte."""
    pieces = (bitmap[start : start + 2**20] for start in range(0, len(bitmap), 2**20))
    return sum(int(np.count_nonzero(np.unpackbits(piece))) for piece in pieces)


# Bytes fetched.


@dataclass(frozen=True, slots=True)
class Uses:
    """When lanes need shards: one entry for each lane and shard it passes, steps inclusive."""

    lane: IntArray
    shard: IntArray
    first_step: IntArray
    last_step: IntArray


def uses_until(plan: Plan, end_step: int) -> Uses:
    """All that any lane needs before `end_step`."""
    by_lane = (zip(itertools.repeat(lane), plan.shards_ahead(0, lane), strict=False) for lane in range(plan.lanes))
    merged = heapq.merge(*by_lane, key=lambda item: item[1].first_step)
    table = [
        (lane, use.shard, use.first_step, min(use.last_step, end_step - 1))
        for lane, use in itertools.takewhile(lambda item: item[1].first_step < end_step, merged)
    ]
    return Uses(*np.array(table, np.int64).T)


@dataclass(frozen=True, slots=True)
class Phase:
    """From `start` to `stop` (exclusive) these nodes, in this order, share the lanes."""

    start: int
    stop: int
    nodes: tuple[int, ...]


def history(nodes: int, epoch_steps: int) -> tuple[Phase, ...]:
    """A node is lost in the middle of an epoch, another comes in the next one. A lone node gets company instead."""
    whole = tuple(range(nodes))
    other = (*whole[: nodes // 2], *whole[nodes // 2 + 1 :]) if nodes > 1 else (0, 1)
    after = (*other, nodes) if nodes > 1 else whole
    lost, added, end = epoch_steps // 2, epoch_steps * 5 // 4, epoch_steps * 5 // 2
    return Phase(0, lost, whole), Phase(lost, added, other), Phase(added, end, after)


@dataclass(frozen=True, slots=True)
class Fetching:
    """Of the node that is worst off: bytes fetched over its share of what is read, and the most it holds at a time."""

    over_share: float
    held_bytes: int


def fetch(recipe: Recipe, uses: Uses, phases: Sequence[Phase]) -> Fetching:
    """Every node fetches a shard when one of its lanes begins to need it, and drops it when none does any more."""
    shard_bytes = recipe.shard_bytes()
    step_bytes = recipe.lanes * recipe.micro_batch * shard_bytes.sum() / recipe.samples
    node, shard, start, stop = (np.concatenate(column) for column in zip(*_held(recipe, uses, phases), strict=True))
    share = np.zeros(node.max() + 1)
    for phase in phases:
        for rank, number in enumerate(phase.nodes):
            lanes = len(lanes_of(rank, len(phase.nodes), recipe.lanes))
            share[number] += (phase.stop - phase.start) * step_bytes * lanes / recipe.lanes
    node, shard, start, stop = _united(node, shard, start, stop)
    fetched = np.bincount(node, shard_bytes[shard], minlength=len(share))
    held = max(
        _most_held(start[own], stop[own], shard_bytes[shard[own]]) for own in (node == n for n in np.unique(node))
    )
    return Fetching(float((fetched / share).max()), held)


def _held(
    recipe: Recipe, uses: Uses, phases: Sequence[Phase]
) -> Iterator[tuple[IntArray, IntArray, IntArray, IntArray]]:
    """Node, shard, first and last step of each use, cut where lanes move to another node."""
    for phase in phases:
        node_of_lane = np.empty(recipe.lanes, np.int64)
        for rank, number in enumerate(phase.nodes):
            node_of_lane[lanes_of(rank, len(phase.nodes), recipe.lanes)] = number
        here = np.flatnonzero((uses.first_step < phase.stop) & (uses.last_step >= phase.start))
        first = np.maximum(uses.first_step[here], phase.start)
        last = np.minimum(uses.last_step[here], phase.stop - 1)
        yield node_of_lane[uses.lane[here]], uses.shard[here], first, last


def _united(node: IntArray, shard: IntArray, start: IntArray, stop: IntArray) -> tuple[IntArray, ...]:
    """Stretches of steps in which a node holds a shard, those that overlap or touch made one."""
    order = np.lexsort((start, shard, node))
    node, shard, start, stop = node[order], shard[order], start[order], stop[order]
    same = np.zeros(len(node), np.bool_)
    same[1:] = (node[1:] == node[:-1]) & (shard[1:] == shard[:-1])
    group = np.cumsum(~same)
    # Steps of a later group lie above all those of the groups before it, so that one running maximum serves all.
    span = int(stop.max()) + 2
    latest = np.maximum.accumulate(stop + group * span) - group * span
    begins = ~same
    begins[1:] |= start[1:] > latest[:-1] + 1
    first = np.flatnonzero(begins)
    return node[first], shard[first], start[first], np.append(latest[first[1:] - 1], latest[-1])


def _most_held(start: IntArray, stop: IntArray, size_bytes: IntArray) -> int:
    steps = np.concatenate([start, stop + 1])
    change = np.concatenate([size_bytes, -size_bytes])
    order = np.lexsort((change, steps))
    return int(np.cumsum(change[order]).max())
