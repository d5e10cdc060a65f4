"""A shard set opened for reading: samples by shard and index, from any process."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from raypose.config.schema import DEFAULT_CACHE_BYTES
from raypose.data.cache import NodeCache, cache_folder
from raypose.data.manifest import Manifest, ShardInfo, read_manifest
from raypose.data.prefetch import Prefetcher
from raypose.data.shard import ShardReader
from raypose.data.verify import Fault, read_sample, require_size, verify_shards
from raypose.errors import ConfigError, ShardCorruptError
from raypose.storage import ObjectStore, open_store
from raypose.storage.local import LocalStore
from raypose.structures import Sample, Skeleton

MAX_OPEN_SHARDS = 64
MAX_OPEN_FRACTION = 1 / 16
"""Of the node cache that one process keeps from eviction by having it open."""


class ShardSet:
    """Samples behind a manifest. Opens shards when they are read and keeps at most MAX_OPEN_SHARDS open.

    Shards in a local folder are read where they are; others come through a node cache. Pickles as store, manifest and
    cache, so that loader processes can have it; several threads may read at a time.
    """

    def __init__(self, store: ObjectStore, manifest: Manifest, cache: NodeCache | None = None) -> None:
        self._store = store
        self.manifest = manifest
        self._cache = None if isinstance(store, LocalStore) else cache or NodeCache(cache_folder(), DEFAULT_CACHE_BYTES)
        self.shard_sizes = tuple(shard.samples for shard in manifest.shards)
        """Samples of each shard, in the order of the manifest."""
        self._ends = list(accumulate(self.shard_sizes))
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, url: str, cache: NodeCache | None = None) -> ShardSet:
        """The shard set in a local folder or below an `s3://` URL; raises DataError where there is none.

        Without `cache`, shards that have to be fetched go through this user's cache, of the default size.
        """
        store = open_store(url)
        return cls(store, read_manifest(store), cache)

    def __reduce__(self) -> tuple[type[ShardSet], tuple[ObjectStore, Manifest, NodeCache | None]]:
        return ShardSet, (self._store, self.manifest, self._cache)

    @property
    def url(self) -> str:
        """Where the set lies."""
        return self._store.url

    @property
    def cache(self) -> NodeCache | None:
        """What shards are fetched into; None where they are read in place."""
        return self._cache

    @property
    def skeleton(self) -> Skeleton:
        return self.manifest.skeleton

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.manifest.class_names

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Sample]:
        with self.reading_ahead(lambda shard: range(shard, len(self.shard_sizes))) as move_on:
            for shard, size in enumerate(self.shard_sizes):
                move_on(shard)
                for index in range(size):
                    yield self.sample(shard, index)

    def locate(self, sample: int) -> tuple[int, int]:
        """(shard, index) of the sample at this place in the order of iteration."""
        if not 0 <= sample < len(self):
            raise IndexError(f"sample {sample} of {len(self)}")
        shard = bisect_right(self._ends, sample)
        return shard, sample - (self._ends[shard] - self.shard_sizes[shard])

    def sample(self, shard: int, index: int) -> Sample:
        """The sample at `index` of `shard`; raises ShardCorruptError when its bytes are damaged."""
        try:
            return self._read(shard, index)
        except ShardCorruptError:
            if self._cache is None:
                raise
        # What was verified when it came has changed on this node's disk, or was built wrong: the store can tell.
        with self._lock:
            self._readers.pop(shard, None)
        self._cache.discard(self.manifest.shards[shard])
        return self._read(shard, index)

    @contextmanager
    def reading_ahead(self, upcoming: Callable[[int], Iterable[int]]) -> Iterator[Callable[[int], None]]:
        """Fetch shards before they are read, as far ahead as the cache has room; does nothing for local shards.

        `upcoming(position)` tells the numbers of the shards in the order in which reading needs them from `position`
        on, a number of the caller's choice, such as a step; another thread calls it. The caller gets a function to tell
        how far reading has come, to be called at the start, too.
        """
        if self._cache is None:
            yield _stay
            return
        with Prefetcher(self._cache, self._store, self.manifest.shards, upcoming) as prefetcher:
            yield prefetcher.move_on

    @property
    def size_bytes(self) -> int:
        """Of all shards."""
        return sum(shard.size_bytes for shard in self.manifest.shards)

    def require_room(self) -> None:
        """Raise ConfigError where the cache is too small for one of the shards."""
        largest = max(self.manifest.shards, key=lambda shard: shard.size_bytes, default=None)
        if self._cache and largest and largest.size_bytes > self._cache.capacity_bytes:
            raise ConfigError(
                f"data.cache_bytes: {self._cache.capacity_bytes:,} bytes hold no shard of {self.url}:"
                f" {largest.name} has {largest.size_bytes:,}; set it to several times that"
            )

    def shortage(self, shards: Collection[int], processes: int) -> str | None:
        """What to say where `processes` on a node read so many shards at a time that the cache cannot hold them.

        None where it can. Reading works all the same, but fetches shards again and again.
        """
        needed_bytes = processes * sum(self.manifest.shards[shard].size_bytes for shard in shards)
        needed_bytes = min(needed_bytes, self.size_bytes)
        if self._cache is None or needed_bytes <= self._cache.capacity_bytes:
            return None
        return (
            f"data.cache_bytes: {_mib(self._cache.capacity_bytes)} are less than the {_mib(needed_bytes)} of the shards"
            f" that this node's workers read at a time ({len(shards)} each, {processes} of them), so shards will be"
            " fetched again and again; raise it, or lower data.shuffle_window"
        )

    def verify(self, processes: int = 1) -> Iterator[Fault | None]:
        """Read everything from the store: one item for each sample, None where it is well, and one for each bad shard.

        A shard whose size or SHA-256 differs is reported as a whole first, then its records one by one.
        """
        return verify_shards(self._store, self.manifest, processes)

    def _read(self, shard: int, index: int) -> Sample:
        return read_sample(self._reader(shard), index, self.manifest.shards[shard], self.skeleton.keypoints)

    def _reader(self, shard: int) -> ShardReader:
        with self._lock:
            reader = self._readers.get(shard)
            if reader is not None:
                self._readers.move_to_end(shard)
                return reader
        # Not under the lock: fetching takes time in which other threads read what is open.
        reader = self._open_shard(self.manifest.shards[shard])
        with self._lock:
            self._readers[shard] = reader
            # A dropped reader unmaps its file when the last thread that reads from it lets go.
            while len(self._readers) > 1 and self._too_much_is_open():
                self._readers.popitem(last=False)
        return reader

    def _open_shard(self, info: ShardInfo) -> ShardReader:
        if self._cache is None:
            reader = ShardReader.open(Path(self._store.place(info.name)))
        else:
            with self._cache.open(info, self._store) as file:
                reader = ShardReader(file, info.name)
        require_size(reader, info)
        return reader

    def _too_much_is_open(self) -> bool:
        if len(self._readers) > MAX_OPEN_SHARDS:
            return True
        open_bytes = sum(reader.size_bytes for reader in self._readers.values())
        return self._cache is not None and open_bytes > self._cache.capacity_bytes * MAX_OPEN_FRACTION


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"


def _stay(_: int) -> None:
    """Nothing has to be fetched, wherever reading has come to."""
