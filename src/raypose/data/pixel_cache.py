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

import contextlib
import errno
import fcntl
import hashlib
import itertools
import mmap
import os
import queue
import shutil
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import psutil

from raypose.data.lock_file import exclusive
from raypose.data.shard_set import ShardSet
from raypose.errors import StorageError
from raypose.structures import ImageArray

WAITING_IMAGES = 32
"""Decoded images that may wait to be written; each takes about 3 * long_side^2 bytes."""
_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_write = os.write  # of its own name, for tests to fill the disk
_ENTRY = np.dtype([("end", np.uint64), ("width", np.uint32), ("height", np.uint32)])
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class PixelCache:
    """The images of `shards` as RGB, at the size that training at `long_side` decodes them to.

    At most `capacity_bytes` below `folder`, all sets and runs together; what does not fit is decoded each time. A
    thread writes, and nobody waits for it: what a slow disk does not take now is kept when it is decoded again.
    Pickles as its arguments, and may be used by several threads.
    """

    def __init__(self, folder: Path, capacity_bytes: int, shards: ShardSet, long_side: int) -> None:
        self._arguments = folder, capacity_bytes, shards, long_side
        self._starts = [0, *itertools.accumulate(shards.shard_sizes)]
        try:
            self._files = _Files.open(
                folder,
                folder / _key(shards, long_side),
                samples=len(shards),
                expected_bytes=3 * long_side**2 * len(shards),
                capacity_bytes=capacity_bytes,
            )
        except OSError as error:
            raise StorageError(
                f"{folder}: cannot keep decoded images: {error.strerror or error}; set data.cache_dir to a local folder"
                " that can be written to, or data.pixel_cache_bytes to 0"
            ) from error
        self._waiting: queue.SimpleQueue[_Waiting] = queue.SimpleQueue()
        arguments = self._waiting, self._files  # and not this object, which ends the thread when it goes
        threading.Thread(target=_write_all, args=arguments, name="raypose-pixels", daemon=True).start()
        weakref.finalize(self, self._waiting.put, None)

    def __reduce__(self) -> tuple[type[PixelCache], tuple[Path, int, ShardSet, int]]:
        return PixelCache, self._arguments

    def get(self, shard: int, index: int) -> ImageArray | None:
        """The image, HW3; None where it is not here."""
        return self._files.read(self._starts[shard] + index)

    def put(self, shard: int, index: int, image: ImageArray) -> None:
        """Keep an image that was decoded, if there is room; it must not be changed any more."""
        if not self._files.is_full and self._waiting.qsize() < WAITING_IMAGES:
            self._waiting.put((self._starts[shard] + index, image))

    def flush(self) -> None:
        """Wait until what was put is kept, or was found not to fit."""
        written = threading.Event()
        self._waiting.put(written)
        written.wait()


_Waiting = tuple[int, ImageArray] | threading.Event | None
"""A sample's image to write; somebody who waits for what came before; the end."""


def _write_all(waiting: queue.SimpleQueue[_Waiting], files: _Files) -> None:
    while (item := waiting.get()) is not None:
        if isinstance(item, threading.Event):
            item.set()
        else:
            files.write(*item)


@dataclass(slots=True)
class _Files:
    """What lies in the folder of one set. One thread writes, any may read."""

    root: Path
    capacity_bytes: int
    pixels: BinaryIO
    index_N: np.ndarray[Any, Any]
    in_use: BinaryIO
    is_full: bool

    @classmethod
    def open(cls, root: Path, own: Path, *, samples: int, expected_bytes: int, capacity_bytes: int) -> _Files:
        root.mkdir(parents=True, exist_ok=True)
        with exclusive(root / "opening.lock"):
            own.mkdir(exist_ok=True)
            in_use = (own / "in-use").open("wb")
            fcntl.flock(in_use, fcntl.LOCK_SH)
            others = [folder for folder in root.iterdir() if folder.is_dir() and folder != own]
            if _size_of(others) + expected_bytes > capacity_bytes:
                _remove_unused(others)
            index_N, is_full = _map_index(own / "index", samples)
            pixels = cast(BinaryIO, (own / "pixels").open("ab+", buffering=0))
            return cls(root, capacity_bytes, pixels, index_N, in_use, is_full)

    def read(self, sample: int) -> ImageArray | None:
        end, wide, high = self.index_N[sample].item()
        if not end:
            return None
        image = np.empty((high, wide, 3), np.uint8)
        if os.preadv(self.pixels.fileno(), [image.data], end - image.nbytes) != image.nbytes:
            return None  # somebody has cut the file
        return image

    def write(self, sample: int, image: ImageArray) -> None:
        if self.is_full or self.index_N[sample]["end"]:
            return
        try:
            # Of all sets and sizes, each time, for others write, too: 60 us, a hundredth of what decoding takes.
            has_room = _size_of(self.root.iterdir()) + image.nbytes <= self.capacity_bytes
            written = _write(self.pixels.fileno(), np.ascontiguousarray(image).data) if has_room else 0
        except OSError:
            written = 0
        if written < image.nbytes:  # the disk may hold less than was allowed; training goes on by decoding
            self.is_full = True
            return
        entry = self.index_N[sample]
        entry["height"], entry["width"] = image.shape[:2]
        # The kernel has put it at the end of the file, as that was then, and this file's position behind it. Last,
        # for whoever sees this may read the image.
        entry["end"] = self.pixels.tell()


def _map_index(path: Path, samples: int) -> tuple[np.ndarray[Any, Any], bool]:
    """The index, in memory that is the file, and False; one of nothing, and True, where the disk has no room for it."""
    with path.open("ab+") as file:
        try:
            # Of a sparse file, a page that a full disk has no room for would kill the process that writes to it.
            os.posix_fallocate(file.fileno(), 0, samples * _ENTRY.itemsize)
        except OSError as error:
            if error.errno not in _DISK_IS_FULL:
                raise
            return np.zeros(samples, _ENTRY), True
        return np.frombuffer(mmap.mmap(file.fileno(), 0), _ENTRY), False


def _size_of(folders: Iterable[Path]) -> int:
    size_bytes = 0
    for folder in folders:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it was removed, or is no set's folder
            size_bytes += (folder / "pixels").stat().st_size
    return size_bytes


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
