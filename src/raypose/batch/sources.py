"""What there is to predict: what a user names, listed by name before a pixel of it is read."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from raypose.data.manifest import MANIFEST_KEY, read_manifest
from raypose.errors import DataError
from raypose.storage import ObjectStore, is_remote, open_parent, open_store

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})


@dataclass(frozen=True, slots=True)
class Source:
    """Images and videos below `root`, each by its path there and in order; or the `samples` of the shard set there."""

    root: str
    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    samples: int = 0

    def __len__(self) -> int:
        return len(self.images) + len(self.videos) + self.samples


def open_source(source: str) -> Source:
    """An image, a video, a folder (searched recursively) or a shard set, by path or `s3://` URL; or a glob of files.

    Raises DataError when nothing is there, nothing in it is an image or video, or a name is no text. Hidden files are
    left out.
    """
    found = _find(source)
    _require_text(found)
    return found


def _find(source: str) -> Source:
    if is_remote(source):
        return _remote_source(source)
    path = Path(source).expanduser().absolute()
    if path.is_dir():
        store = open_store(str(path))
        return _source_in(source, store, (entry.key for entry in store.list()))
    if path.is_file():
        return _single_file(str(path))
    if glob.has_magic(source):
        root = _fixed_part(path)
        # Unlike Path.glob, a trailing ** also means files, as it does in a shell.
        matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207
        keys = sorted(match.relative_to(root).as_posix() for match in matches if match.is_file())
        return _files(source, open_store(str(root)), keys)
    raise DataError(f"{source}: no such file or folder; give an image, a video, a folder or a glob in quotes")


def _remote_source(url: str) -> Source:
    folder = open_store(url)
    keys = [entry.key for entry in folder.list()]
    if keys:
        return _source_in(url, folder, keys)
    parent, name = open_parent(url)
    if parent.exists(name):
        return _single_file(url)
    raise DataError(f"{url}: no such object, and none below it; give an image, a video or the place of many")


def _single_file(source: str) -> Source:
    store, name = open_parent(source)
    if _is_image(name):
        return Source(store.url, images=(name,))
    if _is_video(name):
        return Source(store.url, videos=(name,))
    suffix = PurePosixPath(name).suffix.lower()
    known = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    raise DataError(f"{source}: suffix {suffix or 'missing'!r} is neither image nor video; expected one of {known}")


def _source_in(source: str, store: ObjectStore, keys: Iterable[str]) -> Source:
    found = list(keys)
    if MANIFEST_KEY in found and not any(_is_image(key) or _is_video(key) for key in found):
        return Source(store.url, samples=sum(shard.samples for shard in read_manifest(store).shards))
    return _files(source, store, found)


def _files(source: str, store: ObjectStore, keys: Iterable[str]) -> Source:
    found = [key for key in keys if not _hidden(key)]
    images, videos = tuple(filter(_is_image, found)), tuple(filter(_is_video, found))
    if not images and not videos:
        known = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
        raise DataError(f"{source}: {len(found)} files, none of them an image or a video ({known}); check the path")
    return Source(store.url, images, videos)


def _require_text(found: Source) -> None:
    """Names stand in results and errors as text; one that is not UTF-8 would end the part that it is in."""
    names = [name for name in (found.root, *found.images, *found.videos) if not _is_text(name)]
    if names:
        others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise DataError(f"{found.root!r}: the name {names[0]!r}{others} is not UTF-8, as results are; rename it")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_image(key: str) -> bool:
    return PurePosixPath(key).suffix.lower() in IMAGE_SUFFIXES


def _is_video(key: str) -> bool:
    return PurePosixPath(key).suffix.lower() in VIDEO_SUFFIXES


def _fixed_part(pattern: Path) -> Path:
    """The folder in front of the first wildcard."""
    parts = pattern.parts
    wild = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:wild])


def _hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))
