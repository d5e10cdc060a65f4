"""Objects as files below a folder. Writes go to a temporary neighbour, are flushed to disk and then renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from raypose.errors import StorageError
from raypose.storage.base import StoredObject, check_key, check_range

_PARTIAL = ".partial-"
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


class LocalStore:
    """An ObjectStore on a local or mounted file system."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    @property
    def url(self) -> str:
        return str(self.root)

    def place(self, key: str) -> str:
        return str(self._path(key))

    def read(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except OSError as error:
            raise self._failure("read", key, error) from error

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        check_range(key, start, stop)
        try:
            with self._path(key).open("rb") as file:
                file.seek(start)
                content = file.read(stop - start)
        except OSError as error:
            raise self._failure("read", key, error) from error
        if len(content) != stop - start:
            raise StorageError(f"{self.place(key)}: ends after {self.size(key)} bytes, asked for {start} to {stop}")
        return content

    def size(self, key: str) -> int:
        try:
            found = self._path(key).stat()
        except OSError as error:
            raise self._failure("read", key, error) from error
        if not stat.S_ISREG(found.st_mode):
            raise StorageError(f"{self.place(key)}: is no file; name one")
        return found.st_size

    def write(self, key: str, content: bytes) -> None:
        with self._writing(key), appearing(self._path(key)) as temporary:
            temporary.write_bytes(content)

    def write_new(self, key: str, content: bytes) -> bool:
        with self._writing(key):
            try:
                with appearing(self._path(key), new=True) as temporary:
                    temporary.write_bytes(content)
            except FileExistsError:
                if not self.exists(key):  # a file stands where one of its folders should be
                    raise
                return False
        return True

    def upload(self, path: Path, key: str) -> None:
        with self._writing(key), appearing(self._path(key)) as temporary:
            shutil.copyfile(path, temporary)

    def download(self, key: str, path: Path) -> None:
        source = self._path(key)
        with LocalStore(path.parent)._writing(path.name), appearing(path) as temporary:
            shutil.copyfile(source, temporary)

    def exists(self, key: str) -> bool:
        try:
            return stat.S_ISREG(self._path(key).stat().st_mode)
        except OSError as error:
            if error.errno in _ABSENT:
                return False
            raise self._failure("read", key, error) from error

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        folder, _, beginning = (check_key(prefix) if prefix else "").rpartition("/")
        try:
            found = [entry for entry in self._walk(self.root / folder, beginning) if entry.key.startswith(prefix)]
        except OSError as error:
            raise self._failure("list", prefix, error) from error
        yield from sorted(found, key=lambda entry: entry.key)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._path(key)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise self._failure("delete", key, error) from error
            self._remove_empty_folders(path.parent)

    def child(self, prefix: str) -> LocalStore:
        return LocalStore(self._path(prefix))

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _walk(self, start: Path, beginning: str) -> Iterator[StoredObject]:
        for folder, folders, names in os.walk(start, onerror=_raise_unless_absent, followlinks=True):
            if folder == str(start):  # what begins with other letters may be whole data sets
                folders[:] = [name for name in folders if name.startswith(beginning)]
            folders[:] = [name for name in folders if not _leads_back(Path(folder, name), start)]
            for name in names:
                path = Path(folder, name)
                if name.startswith(_PARTIAL):
                    continue
                with contextlib.suppress(FileNotFoundError):  # deleted since the folder was read
                    status = path.stat()
                    key = path.relative_to(self.root).as_posix()
                    yield StoredObject(key, status.st_size, str(status.st_mtime_ns))

    @contextlib.contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failure("write", key, error) from error

    def _remove_empty_folders(self, folder: Path) -> None:
        # Whether a folder is empty is for rmdir to say: asking first would race with writers.
        with contextlib.suppress(OSError):
            while folder != self.root:
                _remove_abandoned(folder)
                folder.rmdir()
                folder = folder.parent

    def _failure(self, verb: str, key: str, error: OSError) -> StorageError:
        path = self.root / key
        culprit = f" ({error.filename})" if error.filename and Path(error.filename) != path else ""
        return StorageError(f"{path}: cannot {verb}: {error.strerror or error}{culprit}")


@contextlib.contextmanager
def appearing(path: Path, *, new: bool = False) -> Iterator[Path]:
    """A temporary neighbour to write to, which becomes `path` at the end of the block, or goes if that fails.

    With `new`, FileExistsError is raised where `path` exists by then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = _make_partial(path.parent)
    try:
        yield temporary
        _flush_to_disk(temporary)
        temporary.chmod(0o644)
        if new:
            path.hardlink_to(temporary)  # unlike a rename, a link does not replace
        else:
            temporary.replace(path)
        _flush_to_disk(path.parent)  # the new name, too, must survive a power cut
    finally:
        with contextlib.suppress(OSError):  # closing alone would not do where a process was forked meanwhile
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


def _make_partial(folder: Path) -> tuple[int, Path]:
    """A new file to write to, locked until its descriptor is let go: the lock of a killed writer is free."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=_PARTIAL, dir=folder)
        with contextlib.suppress(OSError):  # not every network file system has locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if Path(name).exists():
            return descriptor, Path(name)
        os.close(descriptor)  # it was taken for abandoned before it was locked


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed writes have left, where nothing else is there. OSError where somebody still writes."""
    partial = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(_PARTIAL):
                return
            partial.append(Path(entry))
    with contextlib.ExitStack() as locks:
        for path in partial:
            fcntl.flock(locks.enter_context(path.open("r+b")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in partial:
            path.unlink()


def _leads_back(folder: Path, start: Path) -> bool:
    """Whether this is a link to a folder that the walk from `start` came through, and so has listed."""
    if not folder.is_symlink():
        return False
    return any(folder.samefile(above) for above in folder.parents if above.is_relative_to(start))


def _raise_unless_absent(error: OSError) -> None:
    if Path(error.filename).exists():  # a file where a folder should be, or one that may not be looked into
        raise error


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
