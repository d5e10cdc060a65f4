"""Reading everything: whether each shard, each record and each image of a set is what the manifest promises."""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from raypose.data.manifest import Manifest, ShardInfo
from raypose.data.sample_check import check_sample
from raypose.data.shard import ShardReader, find_damage
from raypose.errors import DataError, RayposeError, ShardCorruptError, StorageError
from raypose.storage import ObjectStore
from raypose.storage.local import LocalStore
from raypose.structures import Sample, Skeleton

BYTES_A_PROCESS = 32 * 2**20
"""What one process verifies in about the time that another one takes to start."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong in a shard set; `record` is None where the whole shard is meant."""

    shard: str
    record: int | None
    reason: str


def verify_shards(store: ObjectStore, manifest: Manifest, processes: int = 1) -> Iterator[Fault | None]:
    """One item for each sample, None where it is well, and one more for each damaged shard, in order of shards.

    A shard whose size or SHA-256 differs is reported as a whole first, then its records one by one. What lies in
    the store is read, never a node's copy of it. At most `processes` share the work, fewer where the set is small.
    """
    verify_one = partial(_verify_shard, store, manifest.skeleton, len(manifest.class_names))
    size_bytes = sum(shard.size_bytes for shard in manifest.shards)
    processes = min(processes, len(manifest.shards), size_bytes // BYTES_A_PROCESS)
    if processes <= 1:
        yield from chain.from_iterable(map(verify_one, manifest.shards))
        return
    # Spawned: a forked child of a process with threads may hang on a lock that nobody holds.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    try:
        for found in pool.map(partial(_verify_all, verify_one), manifest.shards):
            yield from found
    except BrokenProcessPool as error:
        raise RayposeError(
            f"{store.url}: one of {processes} verifying processes was killed, perhaps for want of memory;"
            " verify with fewer"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def read_sample(reader: ShardReader, index: int, shard: ShardInfo, keypoints: int) -> Sample:
    """The sample at `index`; raises ShardCorruptError where it is damaged or of another skeleton."""
    sample = reader[index]
    found = sample.people.keypoints_NK3.shape[1]
    if found != keypoints:
        raise ShardCorruptError(
            f"{shard.name}, record {index}: {found} keypoints, the manifest's skeleton has {keypoints};"
            " rebuild with 'raypose data build'"
        )
    return sample


def require_size(reader: ShardReader, shard: ShardInfo) -> None:
    """Raise ShardCorruptError where a shard is another one than the manifest lists under its name."""
    if (reader.size_bytes, len(reader)) != (shard.size_bytes, shard.samples):
        raise ShardCorruptError(
            f"{shard.name}: {reader.size_bytes:,} bytes with {len(reader)} samples, manifest says"
            f" {shard.size_bytes:,} with {shard.samples}; fetch it again or rebuild with 'raypose data build'"
        )


def _verify_all(verify_one: partial[Iterator[Fault | None]], shard: ShardInfo) -> list[Fault | None]:
    return list(verify_one(shard))


def _verify_shard(store: ObjectStore, skeleton: Skeleton, classes: int, shard: ShardInfo) -> Iterator[Fault | None]:
    with contextlib.ExitStack() as files:
        try:
            path = files.enter_context(_local_copy(store, shard.name))
            reader = ShardReader.open(path)
            damage = find_damage(path, shard)
            if damage is not None:
                yield Fault(shard.name, None, damage)
            require_size(reader, shard)
        except DataError as error:
            yield Fault(shard.name, None, str(error))
            return
        for index in range(shard.samples):
            try:
                check_sample(read_sample(reader, index, shard, skeleton.keypoints), skeleton, classes)
                yield None
            except DataError as error:
                yield Fault(shard.name, index, str(error))


@contextlib.contextmanager
def _local_copy(store: ObjectStore, name: str) -> Iterator[Path]:
    if isinstance(store, LocalStore):
        yield store.root / name
        return
    with tempfile.TemporaryDirectory(prefix="raypose-verify-") as folder:
        path = Path(folder, name)
        try:
            store.download(name, path)
        except StorageError as error:
            if store.exists(name):
                raise
            raise ShardCorruptError(f"{store.place(name)}: the manifest lists this shard, but it is missing") from error
        yield path
