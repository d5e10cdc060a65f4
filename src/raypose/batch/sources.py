"""Where the images to predict come from. A source is checked and listed at once, its pixels are read one by one."""

from __future__ import annotations

import glob
import math
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import cv2

from raypose.errors import DataError, StorageError, StorageUnavailableError
from raypose.storage import ObjectStore, is_remote, open_parent, open_store
from raypose.structures import ImageArray
from raypose.vision.decode import decode_rgb

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})

# FFmpeg, inside OpenCV, would print what it finds in a broken video beside the error that says it. Read at first use.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

_READERS = 8
_READ_AHEAD = 16
_USUAL_FPS = 25.0
_COMPLETE = 0.9
"""Containers state their frame count only roughly; a video that yields less than this share of it was cut off."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One RGB image. `name` is its path below the source's root, `index` counts images or video frames from 0."""

    name: str
    index: int
    image_HW3: ImageArray


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something of the source that gave no image, and why."""

    name: str
    error: DataError


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Images of a folder or of a place in object storage, in order of their names."""

    store: ObjectStore
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Frame | Unreadable]:
        """Reads and decodes ahead in threads: an object store takes its time for each image, however small."""
        with ThreadPoolExecutor(_READERS, thread_name_prefix="raypose-read") as pool:
            ahead: deque[Future[Frame | Unreadable]] = deque()
            try:
                for index, key in enumerate(self.keys):
                    ahead.append(pool.submit(self._read, index, key))
                    if len(ahead) > _READ_AHEAD:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _read(self, index: int, key: str) -> Frame | Unreadable:
        try:
            return Frame(key, index, decode_rgb(self.store.read(key), self.store.place(key)))
        except StorageUnavailableError:
            raise
        except DataError as error:
            return Unreadable(key, error)
        except StorageError as error:
            return Unreadable(key, DataError(str(error)))


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A video. `stated_frames` is what its container says, 0 where it does not.

    `fetched` holds the file of a video that was fetched from object storage, and goes with it.
    """

    path: Path
    fps: float
    stated_frames: int
    fetched: tempfile.TemporaryDirectory[str] | None = None

    def __len__(self) -> int:
        return self.stated_frames

    def __iter__(self) -> Iterator[Frame | Unreadable]:
        capture = cv2.VideoCapture(str(self.path))
        count = 0
        try:
            while True:
                done, bgr_HW3 = capture.read()
                if not done:
                    break
                yield Frame(self.path.name, count, cv2.cvtColor(bgr_HW3, cv2.COLOR_BGR2RGB))
                count += 1
        finally:
            capture.release()
        if count < max(1, self.stated_frames * _COMPLETE):
            problem = f"{self.path}: decoding ended after {count} of {self.stated_frames} frames; the file is cut off"
            yield Unreadable(self.path.name, DataError(f"{problem} or damaged, fetch or encode it again"))


def open_source(source: str) -> ImageFiles | VideoFile:
    """An image, a folder (searched recursively) or a video, by path or `s3://` URL; or a glob of local files.

    Raises DataError when nothing is there or nothing in it is an image or video. Hidden files are left out.
    """
    if is_remote(source):
        return _remote_source(source)
    path = Path(source).expanduser()
    if path.is_dir():
        store = open_store(str(path))
        return _image_files(source, store, (entry.key for entry in store.list()))
    if path.is_file():
        return _single_file(source)
    if glob.has_magic(source):
        root = _fixed_part(path)
        # Unlike Path.glob, a trailing ** also means files, as it does in a shell.
        matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207
        keys = sorted(match.relative_to(root).as_posix() for match in matches if match.is_file())
        return _image_files(source, open_store(str(root)), keys)
    raise DataError(f"{source}: no such file or folder; give an image, a folder, a glob in quotes or a video")


def _remote_source(url: str) -> ImageFiles | VideoFile:
    folder = open_store(url)
    keys = [entry.key for entry in folder.list()]
    if keys:
        return _image_files(url, folder, keys)
    parent, name = open_parent(url)
    if parent.exists(name):
        return _single_file(url)
    raise DataError(f"{url}: no such object, and none below it; give an image, a video or the place of many images")


def _single_file(source: str) -> ImageFiles | VideoFile:
    store, name = open_parent(source)
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return ImageFiles(store, (name,))
    if suffix in VIDEO_SUFFIXES:
        if not is_remote(source):
            return _video_file(Path(source).expanduser())
        fetched = tempfile.TemporaryDirectory(prefix="raypose-video-")
        store.download(name, Path(fetched.name, name))
        return replace(_video_file(Path(fetched.name, name)), fetched=fetched)
    known = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    raise DataError(f"{source}: suffix {suffix or 'missing'!r} is neither image nor video; expected one of {known}")


def _image_files(source: str, store: ObjectStore, keys: Iterable[str]) -> ImageFiles:
    found = [key for key in keys if not _hidden(key)]
    images = tuple(key for key in found if PurePosixPath(key).suffix.lower() in IMAGE_SUFFIXES)
    if images:
        return ImageFiles(store, images)
    videos = [key for key in found if PurePosixPath(key).suffix.lower() in VIDEO_SUFFIXES]
    hint = f"predict videos one at a time, such as {store.place(videos[0])}" if videos else "check the path"
    raise DataError(f"{source}: {len(found)} files, none of them an image ({' '.join(sorted(IMAGE_SUFFIXES))}); {hint}")


def _video_file(path: Path) -> VideoFile:
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise DataError(f"{path}: cannot be opened as a video; encode it again, for example as H.264 in .mp4")
        fps, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        capture.release()
    return VideoFile(path, fps if math.isfinite(fps) and fps > 0 else _USUAL_FPS, max(0, int(frames)))


def _fixed_part(pattern: Path) -> Path:
    """The folder in front of the first wildcard."""
    parts = pattern.parts
    wild = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:wild])


def _hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))
