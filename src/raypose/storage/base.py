"""One small protocol for every place that bytes are kept. Keys are `/`-separated and never climb out of the root."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from raypose.errors import StorageError


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a listing knows of an object."""

    key: str
    size_bytes: int


class ObjectStore(Protocol):
    """Objects below one root. A write is seen whole or not at all. Failures raise StorageError."""

    url: str

    def read(self, key: str) -> bytes:
        """The whole object; StorageError when it does not exist."""

    def write(self, key: str, content: bytes) -> None:
        """Replace the object atomically."""

    def upload(self, path: Path, key: str) -> None:
        """Store a local file; the store never shows a part of it."""

    def download(self, key: str, path: Path) -> None:
        """Fetch an object into a local file, which appears whole or not at all."""

    def exists(self, key: str) -> bool:
        """Whether there is an object with exactly this key."""

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Every object whose key starts with `prefix`, in order of keys."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is already gone is no error."""

    def child(self, prefix: str) -> ObjectStore:
        """The part of this store below `prefix`."""


def check_key(key: str) -> str:
    """Refuse keys that are absolute or climb, before they reach a file system."""
    parts = PurePosixPath(key).parts
    if not parts or key.startswith("/") or ".." in parts or "\\" in key or "\0" in key:
        raise StorageError(f"key {key!r} is not a relative path inside the store")
    return key
