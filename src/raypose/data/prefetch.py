"""Fetching shards into the node cache before they are read."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType

from raypose.data.cache import NodeCache
from raypose.data.manifest import ShardInfo
from raypose.data.plan import Plan
from raypose.errors import RayposeError, StorageError
from raypose.storage import ObjectStore

CONNECTIONS = 4
"""Shards that one process fetches at a time."""
LOOK_AHEAD_FRACTION = 0.75
"""Of its part of the cache that a process fills ahead. The rest is for shards that are still open behind it."""
LOOK_INTERVAL_S = 0.25
"""How often at most the look ahead is renewed; reading moves on many times a second."""
LEFT_ALONE_S = 60.0
"""How long a shard that could not be fetched is left alone: an outage must not end fetching ahead for good."""
JOIN_S = 5.0
"""How long leaving waits for downloads; they end by themselves later, and with the process at the latest."""


def shards_ahead(plan: Plan, lanes: Sequence[int], step: int, end_step: int) -> Iterator[int]:
    """The shards that these lanes need from `step` up to `end_step`, in the order of their first steps."""
    by_lane = (plan.shards_ahead(step, lane) for lane in lanes)
    merged = heapq.merge(*by_lane, key=lambda use: use.first_step)
    return (use.shard for use in itertools.takewhile(lambda use: use.first_step < end_step, merged))


def look_ahead(upcoming: Iterable[int], sizes_bytes: Sequence[int], room_bytes: float) -> tuple[int, ...]:
    """The first shards, each once and in order of first use, up to the one that no longer fits the room."""
    chosen: dict[int, None] = {}
    for shard in upcoming:
        if shard in chosen:
            continue
        room_bytes -= sizes_bytes[shard]
        if room_bytes < 0:
            break
        chosen[shard] = None
        if len(chosen) == len(sizes_bytes):  # all of the set, and `upcoming` may name them for many epochs more
            break
    return tuple(chosen)


class Prefetcher:
    """Threads that fetch what will be read next, as far ahead as this process's part of the cache reaches.

    They begin with the first `move_on` and end with the block. A shard that cannot be fetched is left alone for a
    while: whoever reads it meanwhile tries again, and raises what is wrong then.
    """

    def __init__(
        self,
        cache: NodeCache,
        store: ObjectStore,
        shards: Sequence[ShardInfo],
        upcoming: Callable[[int], Iterable[int]],
    ) -> None:
        self._cache = cache
        self._store = store
        self._shards = shards
        self._sizes_bytes = [shard.size_bytes for shard in shards]
        self._upcoming = upcoming
        self._position = 0
        self._moved = threading.Event()
        self._closing = threading.Event()
        self._found_work = threading.Condition()
        self._wanted: deque[int] = deque()
        self._failed_s: dict[int, float] = {}
        self._keep: frozenset[str] = frozenset()
        # Daemons: a download that hangs must not keep its process from ending.
        self._threads = [
            threading.Thread(target=target, name=f"raypose-prefetch-{number}", daemon=True)
            for number, target in enumerate([self._look_around, *[self._fetch] * CONNECTIONS])
        ]

    def __enter__(self) -> Prefetcher:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._stop()
        deadline_s = time.monotonic() + JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def move_on(self, position: int) -> None:
        """Reading has come to `position`."""
        self._position = position
        self._moved.set()

    def _stop(self) -> None:
        self._closing.set()
        self._moved.set()
        with self._found_work:
            self._found_work.notify_all()

    def _look_around(self) -> None:
        """Renew, whenever reading has moved on, what is wanted and what must stay."""
        try:
            with self._cache.counted_as_reader():
                while self._moved.wait() and not self._closing.is_set():
                    self._moved.clear()
                    self._renew(self._upcoming(self._position))
                    self._closing.wait(LOOK_INTERVAL_S)
        except StorageError:
            self._stop()  # the cache cannot be used: reading finds out and says so

    def _renew(self, upcoming: Iterable[int]) -> None:
        room_bytes = LOOK_AHEAD_FRACTION * self._cache.capacity_bytes / max(1, self._cache.readers())
        ahead = look_ahead(upcoming, self._sizes_bytes, room_bytes)
        digests = [self._shards[shard].sha256 for shard in ahead]
        # The last to be needed is the first to be evicted, by this process or another.
        here = self._cache.mark_used(reversed(digests))
        with self._found_work:
            self._keep = frozenset(digests)
            self._wanted = deque(
                shard
                for shard, sha256 in zip(ahead, digests, strict=True)
                if sha256 not in here and not self._has_just_failed(shard)
            )
            self._found_work.notify_all()

    def _has_just_failed(self, shard: int) -> bool:
        return time.monotonic() < self._failed_s.get(shard, -math.inf) + LEFT_ALONE_S

    def _fetch(self) -> None:
        while (shard := self._next_wanted()) is not None:
            try:
                has_room = self._cache.fetch_ahead(self._shards[shard], self._store, self._keep)
            except RayposeError:
                self._failed_s[shard] = time.monotonic()
                continue
            if not has_room:
                with self._found_work:
                    self._wanted.clear()  # until reading has moved on

    def _next_wanted(self) -> int | None:
        with self._found_work:
            self._found_work.wait_for(lambda: self._wanted or self._closing.is_set())
            return None if self._closing.is_set() else self._wanted.popleft()
