"""Shard sets in a bucket: read through the node cache, also while the server is away or a reader is killed."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from raypose.data.build import build_shard_set
from raypose.data.cache import NodeCache
from raypose.data.importers import source_of
from raypose.data.shard_set import ShardSet
from raypose.data.synth import synthesize
from raypose.errors import ShardCorruptError
from raypose.storage import open_store
from raypose.structures import COCO_PERSON
from tests.ports import free_port
from tests.s3.conftest import BUCKET
from tests.s3.servers import make_bucket

SAMPLES = 32


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "train"
    source = source_of(synthesize(SAMPLES, 1, 96), COCO_PERSON, ("person",))
    build_shard_set(source, str(folder), shard_bytes=16 * 1024)
    return folder


def publish(local: Path, url: str) -> None:
    store = open_store(url)
    for path in sorted(local.iterdir(), key=lambda path: path.suffix == ".json"):
        store.upload(path, path.name)


def open_small(url: str, tmp_path: Path) -> ShardSet:
    """The set at `url` behind a cache of about half its size."""
    return ShardSet.open(url, NodeCache(tmp_path / "cache", 90_000))


def ids(shards: ShardSet) -> list[str]:
    return [sample.id for sample in shards]


def test_a_set_in_a_bucket_reads_like_a_local_one_and_verifies(local: Path, s3_url: str, tmp_path: Path) -> None:
    publish(local, s3_url)
    shards = open_small(s3_url, tmp_path)
    assert ids(shards) == ids(shards) == ids(ShardSet.open(str(local)))
    assert list(shards.verify()) == [None] * SAMPLES


def test_a_flipped_byte_in_the_bucket_is_a_named_error(local: Path, s3_url: str, tmp_path: Path) -> None:
    publish(local, s3_url)
    store = open_store(s3_url)
    shards = open_small(s3_url, tmp_path)
    name = shards.manifest.shards[1].name
    content = bytearray(store.read(name))
    content[300] ^= 1
    store.write(name, bytes(content))
    with pytest.raises(ShardCorruptError, match=rf"{name}.*: sha256 .*, manifest says .*fetched 2 times"):
        ids(shards)
    faults = [fault for fault in shards.verify() if fault]
    assert [(fault.shard, fault.record) for fault in faults] == [(name, None), (name, 0)]


@pytest.fixture
def own_server(s3_credentials: None) -> Iterator[tuple[str, ThreadedMotoServer]]:
    """A server that a test may stop and start again; moto keeps its objects meanwhile."""
    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    make_bucket(f"http://127.0.0.1:{port}", f"{BUCKET}-{port}")
    yield f"s3://{BUCKET}-{port}/set?endpoint_url=http://127.0.0.1:{port}", server
    server.stop()


def test_reading_goes_on_when_a_server_that_was_away_returns(
    local: Path, own_server: tuple[str, ThreadedMotoServer], tmp_path: Path
) -> None:
    url, server = own_server
    publish(local, url)
    reading = iter(open_small(url, tmp_path))
    found = [next(reading).id]
    server.stop()
    returning = threading.Timer(5.0, server.start)
    returning.start()
    found += [sample.id for sample in reading]
    returning.join()
    assert found == ids(ShardSet.open(str(local)))


def test_a_reader_that_is_killed_again_and_again_leaves_a_sound_cache(local: Path, s3_url: str, tmp_path: Path) -> None:
    publish(local, s3_url)
    shards = open_small(s3_url, tmp_path)
    assert shards.cache is not None
    spawn = multiprocessing.get_context("spawn")
    for attempt in range(3):
        began = spawn.Event()
        process = spawn.Process(target=_read_for_ever, args=(shards, began))
        process.start()
        try:
            assert began.wait(60)
            time.sleep(0.1 * attempt)
        finally:
            process.kill()
            process.join()
        assert process.exitcode == -signal.SIGKILL
    assert ids(shards) == ids(ShardSet.open(str(local)))
    assert sum(entry.size_bytes for entry in shards.cache.contents()) <= shards.cache.capacity_bytes
    assert not list((tmp_path / "cache" / "fetching").iterdir())


def _read_for_ever(shards: ShardSet, began: Event) -> None:
    while True:
        for _ in shards:
            began.set()
