"""Decoded images kept on the node: the same batches, within the bytes allowed, whatever happens to a process."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from raypose.config.schema import AugmentConfig
from raypose.data import pixel_cache
from raypose.data.loader import TrainLoader
from raypose.data.pixel_cache import PixelCache
from raypose.data.plan import Plan
from raypose.data.shard_set import ShardSet
from raypose.data.training_batch import decode_rgb
from raypose.errors import StorageError
from raypose.structures import Batch
from tests.data_sets import build_synthetic

SIDE_PX = 64
PLENTY = 1 << 30


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return ShardSet.open(str(build_synthetic(tmp_path_factory.mktemp("data"), train=24, val=4) / "train"))


def batches(shards: ShardSet, pixels: PixelCache | None, loader_workers: int = 0) -> list[Batch]:
    """Three epochs of mosaics."""
    plan = Plan(shards.shard_sizes, seed=3, batch=8, lanes=1, window=16)
    loader = TrainLoader(
        shards, plan, [0], AugmentConfig(close_mosaic=0), imgsz=SIDE_PX, seed=3, epochs=3, start_step=0,
        end_step=plan.steps_of(3), loader_workers=loader_workers, kind="processes", pixels=pixels,
    )  # fmt: skip
    found = []
    for (batch,) in loader:
        assert isinstance(batch, Batch)
        found.append(batch)
        if pixels:
            pixels.flush()
    return found


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) > 0 and all(
        np.array_equal(a.image_B3HW, b.image_B3HW) and np.array_equal(a.keypoints_NK3, b.keypoints_NK3)
        for a, b in zip(left, right, strict=True)
    )


def kept_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/pixels"))


@pytest.mark.parametrize("loader_workers", [0, 2])
def test_batches_are_the_same_bits_with_and_without_kept_images(
    shards: ShardSet, tmp_path: Path, loader_workers: int
) -> None:
    pixels = PixelCache(tmp_path, PLENTY, shards, SIDE_PX)
    assert same(batches(shards, pixels, loader_workers), batches(shards, None))
    assert kept_bytes(tmp_path) > 0


def test_what_is_kept_is_not_decoded_again(shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def counted(content: bytes, where: str, *, reduce: int = 1) -> np.ndarray:
        decoded.append(where)
        return decode_rgb(content, where, reduce=reduce)

    monkeypatch.setattr("raypose.data.training_batch.decode_rgb", counted)
    batches(shards, PixelCache(tmp_path, PLENTY, shards, SIDE_PX))
    assert len(set(decoded)) == len(shards)
    before = len(decoded)
    batches(shards, PixelCache(tmp_path, PLENTY, shards, SIDE_PX))  # another run on the same node
    assert len(decoded) == before


def test_what_does_not_fit_is_decoded_each_time_and_the_rest_kept(shards: ShardSet, tmp_path: Path) -> None:
    allowed_bytes = 200_000
    pixels = PixelCache(tmp_path, allowed_bytes, shards, SIDE_PX)
    assert same(batches(shards, pixels), batches(shards, None))
    assert allowed_bytes / 2 < kept_bytes(tmp_path) <= allowed_bytes


def test_sets_and_sizes_that_are_kept_at_the_same_time_share_what_is_allowed(shards: ShardSet, tmp_path: Path) -> None:
    allowed_bytes = 100_000
    small, large = (PixelCache(tmp_path, allowed_bytes, shards, side) for side in (32, SIDE_PX))
    for number in range(len(shards)):
        small.put(*shards.locate(number), np.zeros((32, 32, 3), np.uint8))
        large.put(*shards.locate(number), np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8))
        small.flush()
        large.flush()
    assert allowed_bytes / 2 < kept_bytes(tmp_path) <= allowed_bytes


def test_a_disk_that_is_full_from_the_start_is_left_alone(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    assert same(batches(shards, PixelCache(tmp_path, PLENTY, shards, SIDE_PX)), batches(shards, None))
    assert kept_bytes(tmp_path) == 0


def test_a_disk_that_fills_up_kills_nobody_who_writes_to_the_index(shards: ShardSet, tmp_path: Path) -> None:
    PixelCache(tmp_path, PLENTY, shards, SIDE_PX)
    (index,) = tmp_path.glob("*/index")
    assert index.stat().st_blocks * 512 >= index.stat().st_size > 0  # all of its room is there


def test_a_disk_that_takes_a_part_of_an_image_is_full(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def write(descriptor: int, content: memoryview) -> int:
        written.append(os.write(descriptor, content.cast("B")[:100]))
        return written[-1]

    monkeypatch.setattr(pixel_cache, "_write", write)
    assert same(batches(shards, PixelCache(tmp_path, PLENTY, shards, SIDE_PX)), batches(shards, None))
    assert written == [100]


def test_a_full_disk_stops_the_keeping_and_not_the_training(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [3]

    def write(descriptor: int, content: memoryview) -> int:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(descriptor, content)

    monkeypatch.setattr(pixel_cache, "_write", write)
    assert same(batches(shards, PixelCache(tmp_path, PLENTY, shards, SIDE_PX)), batches(shards, None))
    assert room[0] == -1  # it was not tried again and again


def test_training_does_not_wait_for_a_slow_disk(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    def write(descriptor: int, content: memoryview) -> int:
        goes_on.wait()
        return os.write(descriptor, content)

    monkeypatch.setattr(pixel_cache, "_write", write)
    pixels = PixelCache(tmp_path, PLENTY, shards, SIDE_PX)
    for _ in range(2 * pixel_cache.WAITING_IMAGES):
        pixels.put(0, 0, np.zeros((4, 4, 3), np.uint8))
    assert pixels.get(0, 0) is None
    goes_on.set()
    pixels.flush()
    assert pixels.get(0, 0) is not None


def test_images_of_another_size_or_set_are_not_mixed_up(shards: ShardSet, tmp_path: Path) -> None:
    small, large = (PixelCache(tmp_path, PLENTY, shards, side) for side in (32, SIDE_PX))
    small.put(0, 0, np.zeros((4, 4, 3), np.uint8))
    small.flush()
    assert small.get(0, 0) is not None and large.get(0, 0) is None


def test_unused_images_make_room_and_used_ones_stay(shards: ShardSet, tmp_path: Path) -> None:
    first = PixelCache(tmp_path, 100_000, shards, 32)
    batches(shards, first)
    before = kept_bytes(tmp_path)
    PixelCache(tmp_path, 100_000, shards, SIDE_PX)
    assert kept_bytes(tmp_path) == before  # somebody reads through them
    del first
    for thread in [thread for thread in threading.enumerate() if thread.name == "raypose-pixels"]:
        thread.join(timeout=10)  # it ends with what it wrote for
    PixelCache(tmp_path, 100_000, shards, SIDE_PX)
    assert kept_bytes(tmp_path) == 0


def test_many_threads_and_processes_keep_what_they_put(shards: ShardSet, tmp_path: Path) -> None:
    caches = [PixelCache(tmp_path, PLENTY, shards, SIDE_PX) for _ in range(4)]
    images = [np.full((5 + number, 7, 3), number, np.uint8) for number in range(len(shards))]
    places = [shards.locate(number) for number in range(len(shards))]

    def put(cache: PixelCache) -> None:
        for (shard, index), image in zip(places, images, strict=True):
            cache.put(shard, index, image)
            cache.flush()

    threads = [threading.Thread(target=put, args=(cache,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reopened = pickle.loads(pickle.dumps(caches[0]))
    for (shard, index), image in zip(places, images, strict=True):
        found = reopened.get(shard, index)
        assert found is not None and np.array_equal(found, image)


def test_a_killed_process_leaves_nothing_wrong_behind(shards: ShardSet, tmp_path: Path) -> None:
    code = (
        "import os, signal, numpy as np\n"
        "from pathlib import Path\n"
        "from raypose.data.pixel_cache import PixelCache\n"
        "from raypose.data.shard_set import ShardSet\n"
        f"cache = PixelCache(Path({str(tmp_path)!r}), {PLENTY}, ShardSet.open({shards.url!r}), {SIDE_PX})\n"
        "cache.put(0, 0, np.full((9, 9, 3), 7, np.uint8))\n"
        "cache.flush()\n"
        "os.write(cache._files.pixels.fileno(), bytes(100))  # written, and not yet told of\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    pixels = PixelCache(tmp_path, PLENTY, shards, SIDE_PX)
    first = pixels.get(0, 0)
    assert first is not None and (first == 7).all()
    assert pixels.get(0, 1) is None


def test_a_folder_that_cannot_be_written_to_is_named(shards: ShardSet, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with pytest.raises(StorageError, match=r"file/pixels: .*data\.cache_dir.*data\.pixel_cache_bytes to 0"):
        PixelCache(blocked / "pixels", PLENTY, shards, SIDE_PX)
