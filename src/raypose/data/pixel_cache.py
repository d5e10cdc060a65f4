"""Decoded images that a node keeps on its disk, so that no later epoch and no other process decodes them again.

    opening.lock    held while a folder is opened, and while unused ones are removed
    KEY/in-use      a lock that every process shares that reads through this folder
    KEY/pixels      the images, one behind the other as they came
    KEY/index       for each sample of the set: where its image begins, and its size; zeros where it is not here

KEY says of which shard set, at which size, and since which start of the machine: what a process has written outlives
it, however it ends, but perhaps not the machine. A folder is the same for all runs that decode the same images to the
same size. What is kept stays as long as anybody reads through its folder: epochs come by in ever another order, so a
set that fits in part is served best by keeping that part.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import mmap
import os
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import psutil

from raypose.data.lock_file import exclusive
from raypose.data.shard_set import ShardSet
from raypose.errors import StorageError
from raypose.structures import ImageArray

_write = os.write  # of its own name, for tests to fill the disk
_ENTRY = np.dtype([("end", np.uint64), ("width", np.uint32), ("height", np.uint32)])
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class PixelCache:
    """The images of `shards` as RGB, at the size that training at `long_side` decodes them to.

    At most `capacity_bytes` below `folder`, all sets and runs together; what does not fit is decoded each time. Pickles
    as its arguments, and may be used by several threads.
    """

    def __init__(self, folder: Path, capacity_bytes: int, shards: ShardSet, long_side: int) -> None:
        self._arguments = folder, capacity_bytes, shards, long_side
        self._folder = folder
        self._capacity_bytes = capacity_bytes
        self._starts = [0, *itertools.accumulate(shards.shard_sizes)]
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with exclusive(folder / "opening.lock"):
                self._open(folder / _key(shards, long_side), len(shards), 3 * long_side**2 * len(shards))
        except OSError as error:
            raise StorageError(
                f"{folder}: cannot keep decoded images: {error.strerror or error}; set data.cache_dir to a local folder"
                " that can be written to, or data.pixel_cache_bytes to 0"
            ) from error

    def _open(self, own: Path, samples: int, expected_bytes: int) -> None:
        own.mkdir(exist_ok=True)
        self._in_use = (own / "in-use").open("wb")
        fcntl.flock(self._in_use, fcntl.LOCK_SH)
        others = [folder for folder in self._folder.iterdir() if folder.is_dir() and folder != own]
        if _size_of(others) + expected_bytes > self._capacity_bytes:
            _remove_unused(others)
        self._own_capacity_bytes = self._capacity_bytes - _size_of(others)
        self._pixels = (own / "pixels").open("ab+", buffering=0)
        with (own / "index").open("ab+") as file:
            file.truncate(samples * _ENTRY.itemsize)  # pages that nobody writes to take no room
            self._index_N = np.frombuffer(mmap.mmap(file.fileno(), 0), _ENTRY)

    def __reduce__(self) -> tuple[type[PixelCache], tuple[Path, int, ShardSet, int]]:
        return PixelCache, self._arguments

    def get(self, shard: int, index: int) -> ImageArray | None:
        """The image, HW3; None where it is not here."""
        end, wide, high = self._index_N[self._starts[shard] + index].item()
        if not end:
            return None
        image = np.empty((high, wide, 3), np.uint8)
        if os.preadv(self._pixels.fileno(), [image.data], end - image.nbytes) != image.nbytes:
            return None  # somebody has cut the file
        return image

    def put(self, shard: int, index: int, image: ImageArray) -> None:
        """Keep an image that was decoded, if there is room."""
        high, wide = image.shape[:2]
        with self._lock:
            end = self._append(image)
        if end is not None:
            entry = self._index_N[self._starts[shard] + index]
            entry["width"], entry["height"] = wide, high
            entry["end"] = end  # last: whoever sees it may read the image

    def _append(self, image: ImageArray) -> int | None:
        """Where the image ends that was written at the end of the file; None where it did not fit."""
        if os.fstat(self._pixels.fileno()).st_size + image.nbytes > self._own_capacity_bytes:
            return None
        try:
            written = _write(self._pixels.fileno(), np.ascontiguousarray(image).data)
        except OSError:  # the disk holds less than was allowed; training goes on by decoding
            self._own_capacity_bytes = 0
            return None
        # The kernel puts each write at the end of the file, as it is then, and this file's position behind it.
        return self._pixels.tell() if written == image.nbytes else None


def _size_of(folders: Iterable[Path]) -> int:
    return sum(path.stat().st_size for folder in folders for path in folder.glob("pixels"))


def _remove_unused(folders: Iterable[Path]) -> None:
    """Remove the folders that no process reads through."""
    for folder in folders:
        with (folder / "in-use").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(folder)


def _key(shards: ShardSet, long_side: int) -> str:
    started = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else str(int(psutil.boot_time()))
    digests = "".join(shard.sha256 for shard in shards.manifest.shards)
    return hashlib.sha256(f"{started} {long_side} {digests}".encode()).hexdigest()[:32]
