"""Where the images to predict come from. A source is checked and listed at once, its pixels are read one by one."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2

from raypose.errors import DataError
from raypose.structures import ImageArray
from raypose.vision.decode import decode_rgb

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})

# FFmpeg, inside OpenCV, would print what it finds in a broken video beside the error that says it. Read at first use.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

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
    """Image files below a folder, in order of their names."""

    root: Path
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Frame | Unreadable]:
        for index, path in enumerate(self.paths):
            name = path.relative_to(self.root).as_posix()
            try:
                yield Frame(name, index, decode_rgb(path.read_bytes(), str(path)))
            except DataError as error:
                yield Unreadable(name, error)
            except OSError as error:
                reason = error.strerror or type(error).__name__
                yield Unreadable(name, DataError(f"{path}: cannot be read ({reason}); check the file"))


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A video. `stated_frames` is what its container says, 0 where it does not."""

    path: Path
    fps: float
    stated_frames: int

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
    """An image file, a folder (searched recursively), a glob or a video file.

    Raises DataError when nothing is there or nothing in it is an image or video. Hidden files are left out.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _image_files(source, path, path.rglob("*"))
    if path.is_file():
        return _single_file(path)
    if glob.has_magic(source):
        # Unlike Path.glob, a trailing ** also means files, as it does in a shell.
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207
        return _image_files(source, _fixed_part(path), map(Path, matches))
    raise DataError(f"{source}: no such file or folder; give an image, a folder, a glob in quotes or a video")


def _single_file(path: Path) -> ImageFiles | VideoFile:
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return ImageFiles(path.parent, (path,))
    if suffix in VIDEO_SUFFIXES:
        return _video_file(path)
    known = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    raise DataError(f"{path}: suffix {suffix or 'missing'!r} is neither image nor video; expected one of {known}")


def _image_files(source: str, root: Path, candidates: Iterator[Path]) -> ImageFiles:
    found = [path for path in candidates if path.is_file() and not _hidden(path.relative_to(root))]
    images = sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)
    if images:
        return ImageFiles(root, tuple(images))
    videos = sorted(path for path in found if path.suffix.lower() in VIDEO_SUFFIXES)
    hint = f"predict videos one at a time, such as {videos[0]}" if videos else "check the path"
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


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)
