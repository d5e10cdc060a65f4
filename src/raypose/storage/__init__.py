"""Where bytes are kept: one protocol, one implementation for each kind of place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from raypose.config.s3_url import S3Location, is_remote
from raypose.errors import StorageError, StorageUnavailableError
from raypose.storage.base import ObjectStore, StoredObject
from raypose.storage.local import LocalStore

__all__ = [
    "ObjectStore",
    "StoredObject",
    "ancestry",
    "is_remote",
    "open_parent",
    "open_store",
    "require_lasting",
    "require_writable",
]

_PROBE = ".writable"
_JOB_FOLDERS = "working_dir_files"
"""Where Ray unpacks what travels with a job, on each node for itself; it goes when the room is needed."""


def open_store(url: str) -> ObjectStore:
    """The store that a user's path or URL names. Nothing is asked of its server yet."""
    if is_remote(url):
        location = S3Location.parse(url)
        from raypose.storage.s3 import S3Store  # boto3 takes a good part of a second to load

        return S3Store(location)
    return LocalStore(Path(url))


def open_parent(url: str) -> tuple[ObjectStore, str]:
    """The store that holds the one object, or the part of a store, that `url` names, and its key there."""
    if not is_remote(url):
        path = Path(url).expanduser().absolute()
        return open_store(str(path.parent)), path.name
    location = S3Location.parse(url)
    parent, _, key = location.prefix.rpartition("/")
    if not key:
        raise StorageError(f"{url}: names a whole bucket; add the name of what is meant")
    return open_store(replace(location, prefix=parent).url), key


def ancestry(url: str) -> Iterator[ObjectStore]:
    """The store that `url` names and those of all places above it, innermost first."""
    if not is_remote(url):
        path = Path(url).expanduser().absolute()
        yield from (LocalStore(folder) for folder in (path, *path.parents))
        return
    location = S3Location.parse(url)
    parts = location.prefix.split("/") if location.prefix else []
    for depth in range(len(parts), -1, -1):
        yield open_store(replace(location, prefix="/".join(parts[:depth])).url)


def require_writable(store: ObjectStore, setting: str) -> None:
    """Raise StorageError now rather than after hours of work whose results could not be kept.

    `setting` is what the user chose the place with.
    """
    require_lasting(store, setting)
    try:
        store.write(_PROBE, b"")
        store.delete([_PROBE])
    except StorageUnavailableError:
        raise
    except StorageError as error:
        raise StorageError(f"{setting}: {error}; choose a place that can be written to") from error


def require_lasting(store: ObjectStore, setting: str) -> None:
    """Raise StorageError where Ray would remove what is written there."""
    if isinstance(store, LocalStore) and _JOB_FOLDERS in store.root.parts:
        raise StorageError(
            f"{setting}: {store.url} lies in the working directory of a Ray job, which Ray removes; give an s3:// URL,"
            " or an absolute path that all nodes see"
        )
