"""The node cache: fetched once, verified, within its bytes, and sound whoever is killed when."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypose.data.build import build_shard_set
from raypose.data.cache import NodeCache, cache_folder
from raypose.data.importers import source_of
from raypose.data.manifest import Manifest, ShardInfo, read_manifest
from raypose.data.shard import ShardReader, find_damage
from raypose.data.synth import synthesize
from raypose.errors import ShardCorruptError, StorageError
from raypose.storage.local import LocalStore
from raypose.structures import COCO_PERSON
from tests.remote_store import RemoteStore

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("far") / "train"
    build_shard_set(source_of(synthesize(48, 1, 96), COCO_PERSON, ("person",)), str(out), shard_bytes=16 * 1024)
    return out


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    manifest = read_manifest(LocalStore(folder))
    assert len(manifest.shards) >= 6
    return manifest


@pytest.fixture
def remote(folder: Path, tmp_path: Path) -> RemoteStore:
    return RemoteStore(folder, tmp_path / "downloads.log")


@pytest.fixture
def cache(tmp_path: Path) -> NodeCache:
    return NodeCache(tmp_path / "cache", 1 << 30)


def bytes_of(cache: NodeCache) -> int:
    return sum(entry.size_bytes for entry in cache.contents())


def leftovers(cache: NodeCache) -> list[str]:
    return [path.name for path in (cache.folder / "fetching").glob("*")]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def open_and_close(cache: NodeCache, shard: ShardInfo, store: RemoteStore) -> None:
    cache.open(shard, store).close()


# --- fetched once, verified ---


def test_a_shard_is_fetched_once_and_comes_whole(cache: NodeCache, manifest: Manifest, remote: RemoteStore) -> None:
    shard = manifest.shards[0]
    for _ in range(3):
        with cache.open(shard, remote) as file:
            assert file.read() == (remote.root / shard.name).read_bytes()
    assert remote.downloads() == 1
    assert not leftovers(cache)


def test_several_processes_fetch_a_shard_exactly_once(
    cache: NodeCache, manifest: Manifest, remote: RemoteStore
) -> None:
    slow = replace(remote, delay_s=0.5)
    processes = [SPAWN.Process(target=open_and_close, args=(cache, manifest.shards[0], slow)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert remote.downloads() == 1
    assert cache.fetched_bytes() == manifest.shards[0].size_bytes


def test_threads_fetch_a_shard_exactly_once(cache: NodeCache, manifest: Manifest, remote: RemoteStore) -> None:
    slow = replace(remote, delay_s=0.05)
    with ThreadPoolExecutor(8) as pool:
        for shard in manifest.shards[:3]:
            pool.submit(open_and_close, cache, shard, slow)
        list(pool.map(lambda shard: open_and_close(cache, shard, slow), manifest.shards[:3] * 8))
    assert remote.downloads() == 3


def test_equal_shards_of_two_sets_are_kept_once(
    cache: NodeCache, manifest: Manifest, remote: RemoteStore, tmp_path: Path
) -> None:
    copy = replace(remote, root=Path(shutil.copytree(remote.root, tmp_path / "copy")))
    open_and_close(cache, manifest.shards[0], remote)
    open_and_close(cache, replace(manifest.shards[0], name="another-name.pkl"), copy)
    assert remote.downloads() == 1


def test_a_byte_that_flips_on_the_way_costs_one_more_fetch(
    cache: NodeCache, manifest: Manifest, remote: RemoteStore
) -> None:
    with cache.open(manifest.shards[0], replace(remote, damaged=1)) as file:
        assert file.read() == (remote.root / manifest.shards[0].name).read_bytes()
    assert remote.downloads() == 2


@pytest.mark.parametrize(("fault", "found"), [({"damaged": 2}, "sha256 "), ({"cut": True}, " bytes, manifest says")])
def test_a_shard_that_comes_damaged_twice_is_named(
    fault: dict[str, Any], found: str, cache: NodeCache, manifest: Manifest, remote: RemoteStore
) -> None:
    shard = manifest.shards[1]
    with pytest.raises(ShardCorruptError, match=rf"^far://train/{shard.name}: .*{found}.*; store the shard") as caught:
        cache.open(shard, replace(remote, **fault))
    assert "\n" not in str(caught.value)
    assert remote.downloads() == 2
    assert not cache.contents() and not leftovers(cache)


def test_a_cached_shard_that_was_cut_off_is_fetched_again(
    cache: NodeCache, manifest: Manifest, remote: RemoteStore
) -> None:
    shard = manifest.shards[0]
    open_and_close(cache, shard, remote)
    os.truncate(cache.folder / "shards" / shard.sha256, 100)
    open_and_close(cache, shard, remote)
    assert remote.downloads() == 2
    assert find_damage(cache.folder / "shards" / shard.sha256, shard) is None


# --- killed ---


def test_a_download_that_is_killed_leaves_nothing_that_blocks_or_corrupts(
    cache: NodeCache, manifest: Manifest, remote: RemoteStore
) -> None:
    first, second = manifest.shards[:2]
    process = SPAWN.Process(target=open_and_close, args=(cache, first, replace(remote, delay_s=60)))
    process.start()
    partial = cache.folder / "fetching" / first.sha256 / ".partial-download"
    wait_until(partial.exists)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert partial.exists()
    open_and_close(cache, second, remote)
    assert not leftovers(cache)  # another fetch has cleaned up
    with cache.open(first, remote) as file:
        assert file.read() == (remote.root / first.name).read_bytes()


def test_who_waits_for_a_download_takes_over_when_it_is_killed(
    cache: NodeCache, manifest: Manifest, remote: RemoteStore
) -> None:
    shard = manifest.shards[0]
    process = SPAWN.Process(target=open_and_close, args=(cache, shard, replace(remote, delay_s=60)))
    process.start()
    wait_until(lambda: remote.downloads() == 1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(open_and_close, cache, shard, remote)
        time.sleep(0.1)
        assert not waiting.done()
        os.kill(process.pid or 0, signal.SIGKILL)
        waiting.result()
    process.join()
    assert remote.downloads() == 2 and not leftovers(cache)


def test_what_a_killed_process_was_reading_can_be_evicted(
    cache: NodeCache, manifest: Manifest, remote: RemoteStore
) -> None:
    first, second = manifest.shards[:2]
    process = SPAWN.Process(target=_read_for_ever, args=(cache, first, remote))
    process.start()
    small = replace(cache, capacity_bytes=max(first.size_bytes, second.size_bytes))
    try:
        wait_until(lambda: bool(cache.contents()))
        assert not small.fetch_ahead(second, remote)
    finally:
        process.kill()
        process.join()
    assert small.fetch_ahead(second, remote)


def _read_for_ever(cache: NodeCache, shard: ShardInfo, store: RemoteStore) -> None:
    with cache.open(shard, store) as file:
        reader = ShardReader(file, shard.name)
    time.sleep(600)
    del reader


# --- within its bytes ---


@settings(max_examples=60)
@given(
    history=st.lists(st.integers(0, 5), max_size=40),
    capacity=st.integers(1, 6),
)
def test_any_history_of_reads_evicts_the_least_recently_used(history: list[int], capacity: int) -> None:
    """With shards of equal size the cache does what a list of the last `capacity` shards does."""
    with tempfile.TemporaryDirectory() as work:
        root = Path(work, "far")
        root.mkdir()
        shards = [_plain_shard(root, number) for number in range(6)]
        cache = NodeCache(Path(work, "cache"), capacity * 100)
        remote = RemoteStore(root, Path(work, "log"))
        expected: OrderedDict[str, None] = OrderedDict()
        for number in history:
            open_and_close(cache, shards[number], remote)
            expected.pop(shards[number].sha256, None)
            expected[shards[number].sha256] = None
            if len(expected) > capacity:
                expected.popitem(last=False)
            assert [entry.sha256 for entry in cache.contents()] == list(expected)


@settings(max_examples=15)
@given(
    histories=st.lists(st.lists(st.integers(0, 5), max_size=15), min_size=2, max_size=4),
    sizes=st.lists(st.integers(1, 100), min_size=6, max_size=6),
    capacity=st.integers(100, 250),
)
def test_any_concurrent_histories_stay_within_the_bytes(
    histories: list[list[int]], sizes: list[int], capacity: int
) -> None:
    with tempfile.TemporaryDirectory() as work:
        root = Path(work, "far")
        root.mkdir()
        shards = [_plain_shard(root, number, size) for number, size in enumerate(sizes)]
        cache = NodeCache(Path(work, "cache"), capacity)
        remote = RemoteStore(root, Path(work, "log"), delay_s=0.001)

        def read(history: list[int]) -> None:
            for number in history:
                with cache.open(shards[number], remote) as file:
                    assert file.read() == (root / shards[number].name).read_bytes()
                assert bytes_of(cache) <= capacity

        with ThreadPoolExecutor(len(histories)) as pool:
            list(pool.map(read, histories))
        assert bytes_of(cache) <= capacity and not leftovers(cache)


def _plain_shard(root: Path, number: int, size: int = 100) -> ShardInfo:
    """Bytes that the cache takes for a shard: it looks at size and SHA-256 only."""
    content = bytes([number]) * size
    (root / f"shard-{number}.pkl").write_bytes(content)
    return ShardInfo(f"shard-{number}.pkl", size, 1, hashlib.sha256(content).hexdigest())


def test_two_runs_with_different_budgets_share_a_folder(
    cache: NodeCache, manifest: Manifest, remote: RemoteStore
) -> None:
    sizes = [shard.size_bytes for shard in manifest.shards]
    large, small = replace(cache, capacity_bytes=sum(sizes)), replace(cache, capacity_bytes=2 * max(sizes))
    for shard in manifest.shards[:-1]:
        open_and_close(large, shard, remote)
    assert bytes_of(cache) == sum(sizes[:-1])
    open_and_close(small, manifest.shards[0], remote)  # is there: nothing has to go
    assert bytes_of(cache) == sum(sizes[:-1])
    open_and_close(small, manifest.shards[-1], remote)
    assert bytes_of(cache) <= small.capacity_bytes
    assert manifest.shards[-1].sha256 in {entry.sha256 for entry in cache.contents()}
    open_and_close(large, manifest.shards[1], remote)
    open_and_close(large, manifest.shards[2], remote)
    assert bytes_of(cache) > small.capacity_bytes


def test_eviction_spares_what_is_read_and_never_breaks_a_reader(
    cache: NodeCache, manifest: Manifest, remote: RemoteStore
) -> None:
    first, second, third = manifest.shards[:3]
    small = replace(cache, capacity_bytes=max(shard.size_bytes for shard in manifest.shards) * 2)
    with small.open(first, remote) as file:
        reader = ShardReader(file, first.name)
    expected = [reader[index].id for index in range(len(reader))]
    open_and_close(small, second, remote)
    open_and_close(small, third, remote)
    assert [entry.sha256 for entry in cache.contents()] == [first.sha256, third.sha256]  # second was used later
    tiny = replace(cache, capacity_bytes=second.size_bytes)
    assert not tiny.fetch_ahead(second, remote)  # what may be read later does not drive out what is read now
    open_and_close(tiny, second, remote)
    assert [entry.sha256 for entry in cache.contents()] == [second.sha256]
    assert [reader[index].id for index in range(len(reader))] == expected


def test_fetching_ahead_spares_what_it_is_told_to_keep(
    cache: NodeCache, manifest: Manifest, remote: RemoteStore
) -> None:
    first, second = manifest.shards[:2]
    small = replace(cache, capacity_bytes=max(first.size_bytes, second.size_bytes))
    assert small.fetch_ahead(first, remote)
    assert not small.fetch_ahead(second, remote, keep={first.sha256})
    assert remote.downloads(second.name) == 0
    assert small.fetch_ahead(second, remote)


@dataclass(frozen=True)
class GatedStore(RemoteStore):
    """Its downloads end once the gate is open."""

    gate: threading.Event = field(default_factory=threading.Event)

    def download(self, key: str, path: Path) -> None:
        super().download(key, path)
        self.gate.wait(60)  # not for ever: a test that has failed waits for its threads


def test_fetching_ahead_leaves_a_shard_to_whoever_fetches_it(
    cache: NodeCache, manifest: Manifest, remote: RemoteStore
) -> None:
    shard = manifest.shards[0]
    with ThreadPoolExecutor(1) as pool:
        gated = GatedStore(remote.root, remote.log)
        fetching = pool.submit(open_and_close, cache, shard, gated)
        wait_until(lambda: remote.downloads() == 1)
        assert cache.fetch_ahead(shard, remote)
        assert not fetching.done()
        gated.gate.set()
        fetching.result()
    assert remote.downloads() == 1


def test_a_fetch_waits_for_room_that_another_one_has_reserved(
    cache: NodeCache, manifest: Manifest, remote: RemoteStore
) -> None:
    first, second = manifest.shards[:2]
    small = replace(cache, capacity_bytes=max(first.size_bytes, second.size_bytes))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(open_and_close, small, first, replace(remote, delay_s=0.3))
        wait_until(lambda: remote.downloads() == 1)
        open_and_close(small, second, remote)
    assert [entry.sha256 for entry in cache.contents()] == [second.sha256]


def test_a_shard_larger_than_the_cache_is_refused_before_it_is_fetched(
    cache: NodeCache, manifest: Manifest, remote: RemoteStore
) -> None:
    with pytest.raises(StorageError, match=r"set data\.cache_bytes to several times"):
        replace(cache, capacity_bytes=1000).open(manifest.shards[0], remote)
    assert remote.downloads() == 0


# --- disks and folders ---


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", folder], check=False).returncode:
        pytest.skip("mounting a small tmpfs needs privileges")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_written(
    tiny_disk: Path, manifest: Manifest, remote: RemoteStore
) -> None:
    cache = NodeCache(tiny_disk / "cache", 1 << 30)
    with pytest.raises(
        StorageError, match=r"^\S+/cache: the disk of the node cache is full: shard-\S+ needs"
    ) as caught:
        for shard in manifest.shards:
            open_and_close(cache, shard, remote)
    assert "\n" not in str(caught.value) and "data.cache_dir" in str(caught.value)
    assert 0 < len(cache.contents()) < len(manifest.shards) and not leftovers(cache)
    for shard in manifest.shards[: len(cache.contents())]:
        assert find_damage(cache.folder / "shards" / shard.sha256, shard) is None


def test_a_disk_that_has_no_room_for_a_lock_is_a_full_disk(
    tiny_disk: Path, manifest: Manifest, remote: RemoteStore
) -> None:
    cache = NodeCache(tiny_disk / "cache", 1 << 30)
    with pytest.raises(OSError, match="No space left"), (tiny_disk / "others").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    with pytest.raises(StorageError, match=r"^\S+/cache: the disk of the node cache is full: .*data\.cache_dir"):
        open_and_close(cache, manifest.shards[0], remote)


def test_a_limit_on_file_sizes_is_a_full_disk(cache: NodeCache, manifest: Manifest, remote: RemoteStore) -> None:
    receiver, sender = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_open_under_limit, args=(cache, manifest.shards[0], remote, sender))
    process.start()
    assert "the disk of the node cache is full" in receiver.recv()
    process.join()
    assert not cache.contents() and not leftovers(cache)


def _open_under_limit(cache: NodeCache, shard: ShardInfo, store: RemoteStore, sender: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    try:
        cache.open(shard, store)
    except StorageError as error:
        sender.send(str(error))


def test_a_folder_that_cannot_be_used_names_the_setting(
    manifest: Manifest, remote: RemoteStore, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot use the node cache: .*; set data\.cache_dir") as caught:
        NodeCache(tmp_path / "file" / "cache", 1 << 30).open(manifest.shards[0], remote)
    assert "\n" not in str(caught.value)


def test_the_folder_comes_from_the_configuration_then_the_environment_then_the_home() -> None:
    environ = {"RAYPOSE_CACHE_DIR": "/scratch/shards"}
    assert cache_folder("/fast", environ) == Path("/fast")
    assert cache_folder(None, environ) == Path("/scratch/shards")
    assert cache_folder(None, {}) == Path.home() / ".cache" / "raypose" / "shards"
    assert cache_folder("~/shards", environ) == Path.home() / "shards"
    assert cache_folder("shards", environ) == Path.cwd() / "shards"  # the same for whoever starts elsewhere


def test_readers_are_counted_while_they_live(cache: NodeCache) -> None:
    assert cache.readers() == 0
    with cache.counted_as_reader(), cache.counted_as_reader():
        assert cache.readers() == 2
        (cache.folder / "readers" / "killed").touch()
        assert cache.readers() == 2
    assert cache.readers() == 0 and not list((cache.folder / "readers").iterdir())
