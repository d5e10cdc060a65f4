"""One small protocol for every place that bytes are kept. Keys are `/`-separated and never climb out of the root."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from raypose.errors import StorageError


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a listing knows of an object."""

    key: str
    size_bytes: int
    version: str = field(default="", compare=False)
    """Differs once the content does (time of change, ETag); empty where the store cannot tell."""


class ObjectStore(Protocol):
    """Objects below one root. A write is seen whole or not at all. Failures raise StorageError.

    Stores pickle, and work in the process that opened them and in those that it forks or starts; several threads may
    use one at a time.
    """

    @property
    def url(self) -> str:
        """`open_store(url)` is the same store again. Paths below it are made by `place`, never by hand."""

    def place(self, key: str) -> str:
        """Where an object or a part of the store lies, as a user would name it to `open_store`."""

    def read(self, key: str) -> bytes:
        """The whole object; StorageError when it does not exist."""

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """The bytes from `start` up to but without `stop`; StorageError when the object ends before."""

    def size(self, key: str) -> int:
        """Bytes of the object; StorageError when it does not exist."""

    def write(self, key: str, content: bytes) -> None:
        """Replace the object atomically."""

    def write_new(self, key: str, content: bytes) -> bool:
        """Write the object if there is none: True for exactly one of those who try, False for all others."""

    def upload(self, path: Path, key: str) -> None:
        """Store a local file; the store never shows a part of it."""

    def download(self, key: str, path: Path) -> None:
        """Fetch an object into a local file, which appears whole or not at all."""

    def exists(self, key: str) -> bool:
        """Whether there is an object with exactly this key."""

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Every object whose key starts with `prefix`, in order of keys."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, in any order; one that is already gone is no error."""

    def child(self, prefix: str) -> ObjectStore:
        """The part of this store below `prefix`."""


def check_key(key: str) -> str:
    """Refuse keys that are absolute or climb, before they reach a file system."""
    parts = PurePosixPath(key).parts
    if not parts or key.startswith("/") or ".." in parts or "\\" in key or "\0" in key:
        raise StorageError(f"key {key!r} is not a relative path inside the store")
    return key


def check_range(key: str, start: int, stop: int) -> None:
    """Refuse ranges that no object has."""
    if not 0 <= start <= stop:
        raise StorageError(f"{key}: bytes {start} to {stop} are no range; expected 0 <= start <= stop")
