"""What every exporter shares: an empty place to write to, names for image files, several files written at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import TypeVar

from raypose.data.shard_set import ShardSet
from raypose.data.threads import map_in_threads
from raypose.errors import DataError, StorageError
from raypose.storage import ObjectStore, open_store, require_lasting
from raypose.structures import Sample

Rest = TypeVar("Rest")

_SUFFIXES = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*\0": ".tiff",
    b"MM\0*": ".tiff",
}
"""By the first bytes of a file."""

_WRITERS = 8
"""Files under way at a time: a write waits for the disk or the network, not for a processor."""


def open_empty(url: str) -> ObjectStore:
    """The store at `url`; StorageError if anything lies there already, or if nothing would stay there."""
    store = open_store(url)
    require_lasting(store, "out")
    found = next(iter(store.list()), None)
    if found is not None:
        raise StorageError(f"{url}: not empty, it holds {found.key}; choose another place or remove what is there")
    return store


def image_name(sample: Sample) -> str:
    """The relative path of the sample's image file: its id and the suffix that belongs to its content.

    Raises DataError for an id that would come back as another one, or not at all.
    """
    path = PurePosixPath(sample.id)
    is_plain = str(path) == sample.id and not path.is_absolute() and path.parts and "\\" not in sample.id
    if not is_plain or "\0" in sample.id or any(part.startswith(".") for part in path.parts):
        raise DataError(
            f"sample id {sample.id!r} is no relative path of visible files, so no file can be named after it"
        )
    for start, suffix in _SUFFIXES.items():
        if sample.image.startswith(start):
            return f"{sample.id}{suffix}"
    found = sample.image[:4].hex(" ")
    raise DataError(f"{sample.id}: image starts with {found}, expected JPEG, PNG, WebP, BMP or TIFF")


def write_each(
    shard_set: ShardSet, store: ObjectStore, convert: Callable[[Sample], tuple[dict[str, bytes], Rest]]
) -> Iterator[Rest]:
    """Write the files that `convert` makes of each sample, by key; yields the rest of what it returns, in order."""

    def write(sample: Sample) -> Rest:
        files, rest = convert(sample)
        for key, content in files.items():
            store.write(key, content)
        return rest

    return map_in_threads(write, shard_set, threads=_WRITERS, ahead=2 * _WRITERS)
