"""What the node cache does with files: how many are open at a time, and what others see while one is written."""

from __future__ import annotations

import errno
import hashlib
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raypose.data.cache import NodeCache
from raypose.data.manifest import ShardInfo
from tests.remote_store import RemoteStore

SIZE_BYTES = 100
FEW_FILES = 20


def plain_shard(root: Path, number: int) -> ShardInfo:
    """Bytes that the cache takes for a shard: it looks at size and SHA-256 only."""
    content = number.to_bytes(2, "big") * (SIZE_BYTES // 2)
    (root / f"shard-{number}.pkl").write_bytes(content)
    return ShardInfo(f"shard-{number}.pkl", SIZE_BYTES, 1, hashlib.sha256(content).hexdigest())


@pytest.fixture
def remote(tmp_path: Path) -> RemoteStore:
    (tmp_path / "far").mkdir()
    return RemoteStore(tmp_path / "far", tmp_path / "downloads.log")


@pytest.fixture
def cache(tmp_path: Path) -> NodeCache:
    return NodeCache(tmp_path / "cache", 1 << 30)


@pytest.fixture
def max_files() -> Iterator[int]:
    """As many files as this process may have open: hardly more than it has."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + FEW_FILES, most))
    yield highest + FEW_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


def test_more_shards_are_evicted_than_files_may_be_open(cache: NodeCache, remote: RemoteStore, max_files: int) -> None:
    shards = [plain_shard(remote.root, number) for number in range(max_files + 2)]
    for shard in shards[:-1]:
        cache.open(shard, remote).close()
    with cache.open(shards[0], remote):
        replace(cache, capacity_bytes=2 * SIZE_BYTES).open(shards[-1], remote).close()
        assert [entry.sha256 for entry in cache.contents()] == [shards[0].sha256, shards[-1].sha256]


def test_the_count_of_fetched_bytes_never_goes_back_and_a_full_disk_fails_no_fetch(
    cache: NodeCache, remote: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [plain_shard(remote.root, number) for number in range(3)]
    seen: list[int] = []

    def write(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            seen.append(cache.fetched_bytes())
            return file.write(content)

    def write_to_full_disk(path: Path, content: bytes) -> int:
        write(path, b"")
        raise OSError(errno.ENOSPC, "No space left on device")

    for shard, writer in zip(shards, (write, write_to_full_disk, write), strict=True):
        monkeypatch.setattr(Path, "write_bytes", writer)
        cache.open(shard, remote).close()
        seen.append(cache.fetched_bytes())
    assert seen == [0, SIZE_BYTES, SIZE_BYTES, SIZE_BYTES, SIZE_BYTES, 2 * SIZE_BYTES]
    assert len(cache.contents()) == 3
