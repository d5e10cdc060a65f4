"""Where bytes are kept: one protocol, one implementation for each kind of place."""

from __future__ import annotations

from pathlib import Path

from raypose.errors import StorageError
from raypose.storage.base import ObjectStore, StoredObject
from raypose.storage.local import LocalStore

__all__ = ["ObjectStore", "StoredObject", "open_store"]


def open_store(url: str) -> ObjectStore:
    """The store that a user's path names."""
    if "://" in url:
        raise StorageError(f"{url}: this kind of storage is not supported; give a local folder")
    return LocalStore(Path(url))
