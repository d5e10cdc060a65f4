"""The shards that a node keeps on its own disk, shared by all processes and runs that name the same folder.

    index.lock          held while room is made and while a shard is published
    shards/SHA256       a verified shard; its time of change is the time of its last use
    fetching/SHA256.lock, fetching/SHA256/    a fetch under way: the bytes it has reserved, what has come so far
    readers/ID          one for each process that fetches ahead
    fetched             bytes of all shards that ever came here, in decimal digits; written as fetched.new

Every state is a file or a kernel lock, so nothing has to be repaired after a crash: a lock goes with its process, and
what a killed fetch left is removed by whoever needs room next.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from raypose.data.lock_file import LockFile, exclusive, take, try_take
from raypose.data.manifest import ShardInfo
from raypose.data.shard import find_damage
from raypose.errors import ShardCorruptError, StorageError
from raypose.storage import ObjectStore

FETCHES = 2
"""How often a shard is fetched before its bytes count as damaged where they lie, and not on their way."""
ROOM_POLL_S = 0.05

_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class CachedShard:
    """A shard in the cache, as eviction sees it."""

    sha256: str
    size_bytes: int
    used_ns: int


@dataclass(frozen=True, slots=True)
class NodeCache:
    """Shards by content below `folder`, at most `capacity_bytes` of them including those being fetched.

    Holds nothing itself: equal values in any thread or process are the same cache. Folders with different capacities
    may be shared; each process keeps to its own whenever it fetches. A shard that is being read is evicted only for one
    that is read next, and only where all others are being read, too; the readers keep its bytes until they let go.
    """

    folder: Path
    capacity_bytes: int

    def open(self, shard: ShardInfo, store: ObjectStore) -> BinaryIO:
        """The shard's verified bytes, fetched from `store` by one process while the others wait.

        As long as the file, or a map of it, is open the shard counts as being read. Raises ShardCorruptError when it
        came damaged twice, StorageError when it cannot be fetched or kept.
        """
        with self._failures_named():
            cached = self._open_cached(shard)
            if cached is not None:
                return cached
            with take(self._claim_path(shard)) as claim:
                return self._open_cached(shard) or self._fetch_now(shard, store, claim)

    def fetch_ahead(self, shard: ShardInfo, store: ObjectStore, keep: Collection[str] = ()) -> bool:
        """Bring in a shard before it is read. False where that takes the room of shards that are being read or in
        `keep` (SHA-256). A shard that another process fetches is left to it."""
        with self._failures_named():
            if self._shard_path(shard.sha256).exists():
                return True
            with self._alone():  # or it may meet who looks for abandoned claims
                claim = try_take(self._claim_path(shard))
            if claim is None:
                return True
            with claim:
                if self._shard_path(shard.sha256).exists():
                    return True
                if not self._reserve(shard, claim, keep=keep, urgent=False):
                    return False
                self._fetch(shard, store, claim).close()
                return True

    def discard(self, shard: ShardInfo) -> None:
        """Forget a shard whose bytes went bad on this disk, so that it is fetched again."""
        with self._failures_named():
            self._shard_path(shard.sha256).unlink(missing_ok=True)

    def mark_used(self, digests: Iterable[str]) -> set[str]:
        """Count these shards as used now, the last one last. Returns those that are here."""
        here = set()
        with self._failures_named():
            for sha256 in digests:
                with contextlib.suppress(FileNotFoundError):
                    _mark_used(self._shard_path(sha256))
                    here.add(sha256)
        return here

    @contextlib.contextmanager
    def counted_as_reader(self) -> Iterator[None]:
        """Be one of the `readers` in the block."""
        with self._failures_named():
            lock = take(self._made("readers") / uuid.uuid4().hex)
        with lock:
            yield

    def readers(self) -> int:
        """How many fetch ahead into this folder, all runs together."""
        count = 0
        with self._failures_named():
            for path in list(self._made("readers").iterdir()):
                lock = try_take(path)
                if lock is None:
                    count += 1
                else:
                    lock.release()  # its process was killed
        return count

    def fetched_bytes(self) -> int:
        """Of all shards that ever came here, for whatever process and run; of those that came again, again."""
        try:
            return int((self.folder / "fetched").read_bytes() or b"0")
        except FileNotFoundError:
            return 0

    def contents(self) -> list[CachedShard]:
        """Every shard that is here, least recently used first."""
        found = []
        for entry in os.scandir(self._made("shards")):
            with contextlib.suppress(FileNotFoundError):  # evicted since the folder was read
                status = entry.stat()
                found.append(CachedShard(entry.name, status.st_size, status.st_mtime_ns))
        return sorted(found, key=lambda entry: entry.used_ns)

    def _open_cached(self, shard: ShardInfo) -> BinaryIO | None:
        try:
            file = self._shard_path(shard.sha256).open("rb")
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        status = os.fstat(file.fileno())
        if status.st_nlink > 0 and status.st_size == shard.size_bytes:
            _mark_used(file.fileno())
            return file
        file.close()
        if status.st_nlink > 0:  # cut off, as a crash of the machine leaves files
            self.discard(shard)
        return None

    def _fetch_now(self, shard: ShardInfo, store: ObjectStore, claim: LockFile) -> BinaryIO:
        if shard.size_bytes > self.capacity_bytes:
            raise StorageError(
                f"{store.place(shard.name)}: {shard.size_bytes:,} bytes do not fit the node cache of"
                f" {self.capacity_bytes:,}; set data.cache_bytes to several times the size of a shard"
            )
        # What takes the room of a whole cache is other fetches, and they end.
        while not self._reserve(shard, claim, keep=(), urgent=True):
            time.sleep(ROOM_POLL_S)
        return self._fetch(shard, store, claim)

    def _fetch(self, shard: ShardInfo, store: ObjectStore, claim: LockFile) -> BinaryIO:
        """Download, verify, publish: the shard is open, and so safe from eviction, before others can see it."""
        folder = self._made("fetching") / shard.sha256
        _remove_tree(folder)  # of a fetch that was killed
        with contextlib.ExitStack() as undo:
            undo.callback(_remove_tree, folder)
            folder.mkdir()
            path = self._download(shard, store, folder)
            file = undo.enter_context(path.open("rb"))
            fcntl.flock(file, fcntl.LOCK_SH)
            with self._alone():
                path.replace(self._shard_path(shard.sha256))
                _remove_tree(folder)
                claim.release()  # in the same moment, or its bytes would count twice
                self._count_fetched(shard.size_bytes)
            undo.pop_all()
        return file

    def _count_fetched(self, size_bytes: int) -> None:
        beside = self.folder / "fetched.new"
        with contextlib.suppress(OSError):  # of a full disk: the shard is here, and this is a figure for dashboards
            beside.write_bytes(str(self.fetched_bytes() + size_bytes).encode())
            beside.replace(self.folder / "fetched")  # readers have no lock, and must not see it empty

    def _download(self, shard: ShardInfo, store: ObjectStore, folder: Path) -> Path:
        path = folder / "shard"
        for _ in range(FETCHES):
            path.unlink(missing_ok=True)  # a second copy would take room that is not reserved
            try:
                store.download(shard.name, path)
            except StorageError as error:
                if _is_full_disk(error):
                    raise self._full_disk(f"{shard.name} needs {shard.size_bytes:,} bytes") from error
                raise
            damage = find_damage(path, shard)
            if damage is None:
                _mark_used(path)
                return path
        raise ShardCorruptError(
            f"{store.place(shard.name)}: {damage}, fetched {FETCHES} times;"
            " store the shard again or rebuild with 'raypose data build'"
        )

    def _reserve(self, shard: ShardInfo, claim: LockFile, *, keep: Collection[str], urgent: bool) -> bool:
        """Make room for a shard and keep it for this fetch; False, with nothing evicted, where there is none."""
        with self._alone():
            cached = self.contents()
            taken = sum(entry.size_bytes for entry in cached) + self._reserved_bytes()
            excess_bytes = taken + shard.size_bytes - self.capacity_bytes
            spare = [entry for entry in cached if entry.sha256 not in keep]
            if excess_bytes > 0 and not self._evict(spare, excess_bytes, urgent=urgent):
                return False
            claim.write(str(shard.size_bytes).encode())
            return True

    def _evict(self, cached: list[CachedShard], excess_bytes: int, *, urgent: bool) -> bool:
        """Remove shards in the order given, unread ones first, until `excess_bytes` are free; all that or nothing."""
        doomed: list[CachedShard] = []
        being_read: list[CachedShard] = []
        for entry in cached:
            if _freed(doomed) >= excess_bytes:
                break
            chosen = doomed if self._is_unread(entry) else being_read
            chosen.append(entry)
        if urgent:
            while being_read and _freed(doomed) < excess_bytes:
                doomed.append(being_read.pop(0))
        if _freed(doomed) < excess_bytes:
            return False
        for entry in doomed:
            self._shard_path(entry.sha256).unlink(missing_ok=True)
        return True

    def _is_unread(self, entry: CachedShard) -> bool:
        """Whether the shard is here and nobody reads it.

        No lock is kept, for thousands may be looked at, each an open file. Who begins to read before the shard is
        removed keeps its bytes, and who has it open by then but no lock yet sees that it has no name any more.
        """
        try:
            with self._shard_path(entry.sha256).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (FileNotFoundError, BlockingIOError):
            return False
        return True

    def _reserved_bytes(self) -> int:
        """What the fetches under way will add. Removes what killed ones have left."""
        reserved = 0
        for path in list(self._made("fetching").glob("*.lock")):
            abandoned = try_take(path)
            if abandoned is not None:
                with abandoned:
                    _remove_tree(path.with_suffix(""))
                continue
            with contextlib.suppress(FileNotFoundError):  # done since the folder was read
                reserved += int(path.read_bytes() or b"0")
        return reserved

    def _shard_path(self, sha256: str) -> Path:
        return self.folder / "shards" / sha256

    def _claim_path(self, shard: ShardInfo) -> Path:
        return self._made("fetching") / f"{shard.sha256}.lock"

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return exclusive(self._made(".") / "index.lock")

    def _made(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _full_disk(self, need: str) -> StorageError:
        place = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        return StorageError(
            f"{self.folder}: the disk of the node cache is full: {need}, {shutil.disk_usage(place).free:,} are free;"
            f" free some, lower data.cache_bytes ({self.capacity_bytes:,}) or set data.cache_dir to another disk"
        )

    @contextlib.contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if _is_full_disk(error):
                raise self._full_disk("its locks need a few bytes") from error
            culprit = f" ({error.filename})" if error.filename else ""
            raise StorageError(
                f"{self.folder}: cannot use the node cache: {error.strerror or error}{culprit};"
                " set data.cache_dir to a local folder that can be written to"
            ) from error


def cache_folder(configured: str | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of this node's cache: as configured, else $RAYPOSE_CACHE_DIR, else below the home directory."""
    folder = configured or environ.get("RAYPOSE_CACHE_DIR") or "~/.cache/raypose/shards"
    return Path(folder).expanduser().absolute()


def _freed(entries: list[CachedShard]) -> int:
    return sum(entry.size_bytes for entry in entries)


def _mark_used(target: Path | int) -> None:
    now_ns = time.time_ns()
    os.utime(target, ns=(now_ns, now_ns))


def _remove_tree(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _is_full_disk(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_IS_FULL:
            return True
        error = error.__cause__
    return False
