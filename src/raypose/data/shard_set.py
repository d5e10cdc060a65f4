"""A shard set opened for reading: samples by shard and index, from any process."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from raypose.data.image_check import check_image
from raypose.data.manifest import Manifest, ShardInfo, read_manifest
from raypose.data.shard import ShardReader
from raypose.errors import DataError, ShardCorruptError
from raypose.storage import ObjectStore, open_store
from raypose.storage.local import LocalStore
from raypose.structures import Sample, Skeleton

MAX_OPEN_SHARDS = 64


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong in a shard set; `record` is None where the whole shard is meant."""

    shard: str
    record: int | None
    reason: str


class ShardSet:
    """Samples behind a manifest. Opens shards when they are read and keeps at most MAX_OPEN_SHARDS open.

    Pickles as store and manifest, so that loader processes can have it; several threads may read at a time.
    """

    def __init__(self, store: ObjectStore, manifest: Manifest) -> None:
        self._store = store
        self.manifest = manifest
        self._ends = list(accumulate(self.shard_sizes))
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, url: str) -> ShardSet:
        """The shard set in the folder `url`; raises DataError where there is none."""
        store = open_store(url)
        return cls(store, read_manifest(store))

    def __reduce__(self) -> tuple[type[ShardSet], tuple[ObjectStore, Manifest]]:
        return ShardSet, (self._store, self.manifest)

    @property
    def url(self) -> str:
        """Where the set lies."""
        return self._store.url

    @property
    def skeleton(self) -> Skeleton:
        return self.manifest.skeleton

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.manifest.class_names

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Samples of each shard, in the order of the manifest."""
        return tuple(shard.samples for shard in self.manifest.shards)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Sample]:
        for shard, size in enumerate(self.shard_sizes):
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
        sample = self._reader(shard)[index]
        if sample.people.keypoints_NK3.shape[1] != self.skeleton.keypoints:
            raise ShardCorruptError(
                f"{self.manifest.shards[shard].name}, record {index}: {sample.people.keypoints_NK3.shape[1]} keypoints,"
                f" the manifest's skeleton has {self.skeleton.keypoints}; rebuild with 'raypose data build'"
            )
        return sample

    def verify(self) -> Iterator[Fault | None]:
        """Read everything: yields one item for each sample, None where it is well, and one for each damaged shard.

        A shard whose size or SHA-256 differs is reported as a whole first, then its records one by one.
        """
        for number, info in enumerate(self.manifest.shards):
            try:
                reader = ShardReader(_local_path(self._store, info.name))
                if reader.sha256() != info.sha256:
                    yield Fault(info.name, None, f"sha256 {reader.sha256()[:12]}…, manifest says {info.sha256[:12]}…")
                _check_against(info, reader)
            except DataError as error:
                yield Fault(info.name, None, str(error))
                continue
            for index in range(info.samples):
                yield self._fault_of(number, index)

    def _fault_of(self, shard: int, index: int) -> Fault | None:
        name = self.manifest.shards[shard].name
        try:
            sample = self.sample(shard, index)
            check_image(sample.image, sample.id, expected=(sample.width, sample.height))
        except DataError as error:
            return Fault(name, index, str(error))
        return None

    def _reader(self, shard: int) -> ShardReader:
        with self._lock:
            reader = self._readers.get(shard)
            if reader is None:
                info = self.manifest.shards[shard]
                reader = ShardReader(_local_path(self._store, info.name))
                _check_against(info, reader)
                self._readers[shard] = reader
            self._readers.move_to_end(shard)
            # A dropped reader unmaps its file when the last thread that reads from it lets go.
            while len(self._readers) > MAX_OPEN_SHARDS:
                self._readers.popitem(last=False)
            return reader


def _check_against(info: ShardInfo, reader: ShardReader) -> None:
    if (reader.size_bytes, len(reader)) != (info.size_bytes, info.samples):
        raise ShardCorruptError(
            f"{info.name}: {reader.size_bytes:,} bytes with {len(reader)} samples, manifest says"
            f" {info.size_bytes:,} with {info.samples}; fetch it again or rebuild with 'raypose data build'"
        )


def _local_path(store: ObjectStore, name: str) -> Path:
    """Where a shard can be memory-mapped."""
    if isinstance(store, LocalStore):
        return store.root / name
    raise DataError(f"{store.url}: shards are read from local folders; copy the shard set to this machine")
