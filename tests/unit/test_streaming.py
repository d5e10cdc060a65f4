"""Shard sets that are read through the node cache: the same samples, fetched ahead, whatever happens on the way."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose.config.schema import AugmentConfig
from raypose.data.build import build_shard_set
from raypose.data.cache import NodeCache
from raypose.data.importers import source_of
from raypose.data.loader import TrainLoader
from raypose.data.manifest import read_manifest
from raypose.data.plan import Plan
from raypose.data.prefetch import look_ahead, shards_ahead
from raypose.data.shard_set import ShardSet
from raypose.data.synth import synthesize
from raypose.errors import ConfigError, ShardCorruptError, StorageError
from raypose.storage.local import LocalStore
from raypose.structures import COCO_PERSON, Batch
from tests.remote_store import RemoteStore

SAMPLES = 48
LANES = 2
STEPS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("far") / "train"
    source = source_of(synthesize(SAMPLES, 1, 96), COCO_PERSON, ("person",))
    build_shard_set(source, str(out), shard_bytes=16 * 1024)
    return out


@pytest.fixture
def remote(folder: Path, tmp_path: Path) -> RemoteStore:
    return RemoteStore(folder, tmp_path / "downloads.log")


def far_set(remote: RemoteStore, *, of_set: float = 10.0) -> ShardSet:
    """The set behind a cache of so many times its size."""
    manifest = read_manifest(LocalStore(remote.root))
    total = sum(shard.size_bytes for shard in manifest.shards)
    return ShardSet(remote, manifest, NodeCache(remote.log.parent / "cache", int(of_set * total)))


def near_set(remote: RemoteStore) -> ShardSet:
    return ShardSet.open(str(remote.root))


def make_loader(shards: ShardSet, **changes: Any) -> TrainLoader:
    plan = Plan(shards.shard_sizes, seed=5, batch=8, lanes=LANES, window=8)
    settings: dict[str, Any] = {"imgsz": 32, "seed": 5, "epochs": 2, "start_step": 0, "end_step": STEPS}
    return TrainLoader(shards, plan, range(LANES), AugmentConfig(close_mosaic=1), **(settings | changes))


def assert_same_steps(found: Sequence[tuple[Batch, ...]], expected: Sequence[tuple[Batch, ...]]) -> None:
    for left, right in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert left.ids == right.ids
        assert np.array_equal(left.image_B3HW, right.image_B3HW)


def prefetch_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("raypose-prefetch")]


def wait_for(shards: ShardSet, digests: Iterable[str]) -> None:
    """Until the shards with these SHA-256 have been fetched ahead."""
    assert shards.cache is not None
    deadline_s = time.monotonic() + 60
    while missing := set(digests) - {entry.sha256 for entry in shards.cache.contents()}:
        assert time.monotonic() < deadline_s, f"{missing} were not fetched"
        time.sleep(0.01)


# --- the same samples ---


def test_iterating_gives_the_samples_that_a_local_folder_gives(remote: RemoteStore) -> None:
    found = list(far_set(remote, of_set=0.5))
    assert [sample.id for sample in found] == [sample.id for sample in near_set(remote)]
    assert [sample.image for sample in found] == [sample.image for sample in near_set(remote)]


@pytest.mark.parametrize("way", [{"loader_workers": 0}, {"loader_workers": 2, "kind": "threads"}])
def test_training_reads_a_set_larger_than_the_cache_and_stays_within_its_bytes(
    way: dict[str, Any], remote: RemoteStore
) -> None:
    shards = far_set(replace(remote, delay_s=0.01), of_set=0.5)
    assert shards.cache is not None
    steps = []
    for batches in make_loader(shards, **way):
        assert sum(entry.size_bytes for entry in shards.cache.contents()) <= shards.cache.capacity_bytes
        steps.append(batches)
    assert_same_steps(steps, list(make_loader(near_set(remote))))


def test_loader_processes_read_what_this_process_fetches(remote: RemoteStore) -> None:
    shards = far_set(remote)
    steps = list(make_loader(shards, loader_workers=2, kind="processes"))
    assert_same_steps(steps, list(make_loader(near_set(remote))))
    assert remote.downloads() == len(shards.shard_sizes)


def test_several_processes_share_one_copy(remote: RemoteStore) -> None:
    shards = far_set(replace(remote, delay_s=0.05))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        counts = pool.map(_count_samples, [shards] * 2, chunksize=1)
    assert counts == [SAMPLES] * 2
    assert remote.downloads() == len(shards.shard_sizes)


def _count_samples(shards: ShardSet) -> int:
    return sum(1 for _ in shards)


def test_a_local_folder_is_read_in_place(remote: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYPOSE_CACHE_DIR", str(remote.log.parent / "unused"))
    shards = near_set(remote)
    assert sum(1 for _ in shards) == SAMPLES
    assert shards.cache is None and not (remote.log.parent / "unused").exists()


# --- ahead ---


def test_shards_are_fetched_before_they_are_read(remote: RemoteStore) -> None:
    shards = far_set(remote)
    steps = iter(make_loader(shards))
    next(steps)
    wait_for(shards, [shard.sha256 for shard in shards.manifest.shards])
    remote.away.touch()
    assert len(list(steps)) == STEPS - 1  # nothing has to be fetched any more


def test_fetching_ahead_goes_on_as_reading_does_when_the_cache_is_small(remote: RemoteStore) -> None:
    shards = far_set(remote, of_set=0.5)
    order = range(len(shards.shard_sizes))
    with shards.reading_ahead(lambda start: order[start:]) as move_on:
        for shard in order:
            move_on(shard)
            wait_for(shards, [shards.manifest.shards[shard].sha256])
    assert remote.downloads() == len(order)  # each once: nothing was evicted before its time


@pytest.mark.parametrize("start_step", [0, 7])
def test_lanes_are_merged_in_the_order_of_first_use(start_step: int) -> None:
    plan = Plan([5, 9, 2, 7, 7, 3], seed=1, batch=6, lanes=3, window=4)
    order = list(itertools.islice(shards_ahead(plan, range(3), start_step, 10**6), 30))
    needed = [plan.shards_needed(start_step, lane) for lane in range(3)]
    assert set(order[: sum(map(len, needed))]) == frozenset().union(*needed)


@given(
    upcoming=st.lists(st.integers(0, 7), max_size=40),
    sizes=st.lists(st.integers(1, 50), min_size=8, max_size=8),
    room=st.integers(0, 300),
)
def test_looking_ahead_takes_the_first_shards_that_fit(upcoming: list[int], sizes: list[int], room: int) -> None:
    chosen = look_ahead(upcoming, sizes, room)
    order = list(dict.fromkeys(upcoming))
    assert list(chosen) == order[: len(chosen)]
    assert sum(sizes[shard] for shard in chosen) <= room
    if len(chosen) < len(order):
        assert sum(sizes[shard] for shard in order[: len(chosen) + 1]) > room


# --- whatever happens on the way ---


def test_no_thread_is_left_when_reading_ends_fails_or_is_given_up(remote: RemoteStore) -> None:
    list(make_loader(far_set(remote)))
    assert not prefetch_threads()
    given_up = iter(make_loader(far_set(remote)))
    next(given_up)
    assert prefetch_threads()
    given_up.close()  # type: ignore[attr-defined]
    assert not prefetch_threads()
    with pytest.raises(ZeroDivisionError), far_set(remote).reading_ahead(lambda start: range(start, 3)) as move_on:
        move_on(0)
        raise ZeroDivisionError
    assert not prefetch_threads()


def test_a_shard_that_is_damaged_in_the_store_is_named_where_it_is_read(remote: RemoteStore) -> None:
    shards = far_set(replace(remote, damaged=99))
    with pytest.raises(ShardCorruptError, match=rf"{shards.manifest.shards[0].name}: sha256 .* fetched 2 times"):
        next(iter(shards))
    assert not prefetch_threads()


def test_a_store_that_is_away_is_an_error_where_its_shard_is_read_and_nothing_is_lost(remote: RemoteStore) -> None:
    shards = far_set(remote)
    remote.away.touch()
    reading = iter(shards)
    with pytest.raises(StorageError, match="the server is away"):
        next(reading)
    remote.away.unlink()
    assert [sample.id for sample in shards] == [sample.id for sample in near_set(remote)]


def test_fetching_ahead_goes_on_after_an_outage(remote: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypose.data.prefetch.LEFT_ALONE_S", 0.5)
    shards = far_set(remote)
    assert shards.cache is not None
    remote.away.touch()
    with shards.reading_ahead(lambda start: range(start, len(shards.shard_sizes))) as move_on:
        move_on(0)
        time.sleep(0.3)  # all have failed
        remote.away.unlink()
        for _ in range(100):
            move_on(0)
            time.sleep(0.1)
            if len(shards.cache.contents()) == len(shards.shard_sizes):
                return
    pytest.fail("what could not be fetched was never tried again")


def test_bytes_that_go_bad_in_the_cache_are_fetched_again(remote: RemoteStore) -> None:
    shards = far_set(remote)
    assert shards.cache is not None
    expected = shards.sample(0, 0)
    path = shards.cache.folder / "shards" / shards.manifest.shards[0].sha256
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)  # into the same file: open readers see it, too
    assert shards.sample(0, 0).image == expected.image
    assert remote.downloads() == 2


# --- before training ---


def test_a_cache_that_cannot_hold_what_is_read_at_a_time_is_told_with_figures(remote: RemoteStore) -> None:
    shards = far_set(remote, of_set=0.5)
    everything = range(len(shards.shard_sizes))
    assert shards.shortage(everything[:2], processes=1) is None
    message = shards.shortage(everything, processes=2)
    assert message is not None and "data.cache_bytes" in message and "data.shuffle_window" in message
    assert near_set(remote).shortage(everything, processes=2) is None


def test_a_cache_that_holds_no_shard_is_refused(remote: RemoteStore) -> None:
    far_set(remote).require_room()
    near_set(remote).require_room()
    with pytest.raises(ConfigError, match=r"^data\.cache_bytes: [\d,]+ bytes hold no shard"):
        far_set(remote, of_set=0.01).require_room()
