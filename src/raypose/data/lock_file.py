"""Locks between processes that the kernel lets go of when their holder dies, however it dies.

A lock is a `flock`, which belongs to the open file and not to the process: threads exclude each other like processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType


class LockFile:
    """A lock that is held, and a file that exists as long as it is. What the holder writes into it, others may read."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def __enter__(self) -> LockFile:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.release()

    def write(self, content: bytes) -> None:
        """Replace what the file says."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, content, 0)

    def release(self) -> None:
        """Remove the file and let go; harmless when done twice."""
        if self._descriptor < 0:
            return
        try:
            # While it is still locked: later, it could be the file that the next holder has locked.
            self._path.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)
            self._descriptor = -1


def take(path: Path) -> LockFile:
    """Wait until nobody holds the lock at `path`, and hold it."""
    while (lock := _lock(path, fcntl.LOCK_EX)) is None:
        continue
    return lock


def try_take(path: Path) -> LockFile | None:
    """Hold the lock at `path`, which may be one that a killed process left; None where a live process holds it."""
    try:
        return _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def _lock(path: Path, operation: int) -> LockFile | None:
    """None where the last holder has removed the file meanwhile, so that the lock is another one by now."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, descriptor)
        fcntl.flock(descriptor, operation)
        if not _is_file_at(descriptor, path):
            return None
        undo.pop_all()
        return LockFile(path, descriptor)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Be alone in the block among all who name `path`, a file that stays."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
