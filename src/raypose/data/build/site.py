"""The part of a destination that a build works in: what is finished, what is on its way, and what may go.

    OUT/shard-000017-9f2c41ab03de.pkl                               a finished shard, under its final name
    OUT/.building/<digest>/shard-000017-9f2c41ab03de.pkl.json       the report on it

A shard's name carries the digest of its bytes, so shards of different builds never overwrite each other, and the set
that `manifest.json` names stays whole until the next manifest takes its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from raypose.data.manifest import Counts, ShardInfo
from raypose.errors import DataError, StorageError
from raypose.storage import ObjectStore
from raypose.storage.local import LocalStore

_FOLDER = ".building/"
_SHARD_FILE = re.compile(r"shard-(\d{6,})(-[0-9a-f]{12})?\.pkl")
_HASHED_AT_ONCE = 16 << 20


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What became of one shard. `ids` are its samples' in order, empty where `problems` (place, text) has an entry."""

    shard: ShardInfo | None
    counts: Counts
    ids: tuple[str, ...]
    problems: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class BuildSite:
    """Reports and shards of the build with this digest, in the store that is to receive the set."""

    store: ObjectStore
    digest: str

    @property
    def _reports(self) -> str:
        return f"{_FOLDER}{self.digest[:32]}/"

    def finished(self) -> dict[int, str]:
        """Numbers and names of the shards that this build has recorded, perhaps in an earlier attempt."""
        names = (
            entry.key.removeprefix(self._reports).removesuffix(".json") for entry in self.store.list(self._reports)
        )
        return {int(match[1]): name for name in names if (match := _SHARD_FILE.fullmatch(name))}

    def reread(self, name: str) -> ShardReport | None:
        """The report on a finished shard whose bytes are still what it says; else None, and it is to be made again."""
        try:
            raw = json.loads(self.store.read(f"{self._reports}{name}.json"))
            shard = ShardInfo(**raw["shard"])
            is_whole = self.store.size(name) == shard.size_bytes and self._sha256(shard) == shard.sha256
            return ShardReport(shard, Counts(**raw["counts"]), tuple(raw["ids"])) if is_whole else None
        except (StorageError, DataError, ValueError, KeyError, TypeError):
            return None

    def finish(self, staged: Path, number: int, report: ShardReport, info: ShardInfo) -> ShardReport:
        """Put a shard in its place and then record it; returns the report under its final name."""
        shard = replace(info, name=f"shard-{number:06d}-{info.sha256[:12]}.pkl")
        report = replace(report, shard=shard)
        if isinstance(self.store, LocalStore):
            staged.replace(self.store.root / shard.name)  # it was staged, and flushed, on this very file system
        else:
            self.store.upload(staged, shard.name)
        raw = {"shard": asdict(shard), "counts": asdict(report.counts), "ids": list(report.ids)}
        self.store.write(f"{self._reports}{shard.name}.json", json.dumps(raw).encode())
        return report

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder for a shard in the making: where a rename publishes, if the store is a folder itself."""
        folder: Path | None = None
        try:
            if isinstance(self.store, LocalStore):
                folder = self.store.root / _FOLDER
                folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="raypose-shard-", dir=folder, ignore_cleanup_errors=True) as made:
                yield Path(made)
        except OSError as error:
            where = error.filename or folder or tempfile.gettempdir()
            raise StorageError(f"{where}: cannot write a shard: {error.strerror or error}") from error

    def drop_others(self, keep: Collection[str]) -> int:
        """Remove what unfinished builds left, apart from this one's and the shards `keep`; returns how many shards.

        Never run two builds into one destination: the second takes the first for unfinished.
        """
        reports = [entry.key for entry in self.store.list(_FOLDER) if not entry.key.startswith(self._reports)]
        self.store.delete(reports)
        self._drop_shards({*keep, *self.finished().values()})
        if isinstance(self.store, LocalStore):
            for staging in (self.store.root / _FOLDER).glob("raypose-shard-*"):
                shutil.rmtree(staging, ignore_errors=True)
        return sum(key.endswith(".pkl.json") for key in reports)

    def clear(self, keep: Collection[str]) -> None:
        """Remove every trace of building, and all shards but `keep`."""
        self.store.delete([entry.key for entry in self.store.list(_FOLDER)])
        self._drop_shards(keep)
        if isinstance(self.store, LocalStore):
            shutil.rmtree(self.store.root / _FOLDER, ignore_errors=True)

    def _drop_shards(self, keep: Collection[str]) -> None:
        self.store.delete([name for name in shard_files(self.store) if name not in keep])

    def _sha256(self, shard: ShardInfo) -> str:
        digest = hashlib.sha256()
        for start in range(0, shard.size_bytes, _HASHED_AT_ONCE):
            stop = min(start + _HASHED_AT_ONCE, shard.size_bytes)
            digest.update(self.store.read_range(shard.name, start, stop))
        return digest.hexdigest()


def shard_files(store: ObjectStore) -> dict[str, int]:
    """Names and sizes of all shards that lie in a store, named by its manifest or not."""
    return {entry.key: entry.size_bytes for entry in store.list("shard-") if _SHARD_FILE.fullmatch(entry.key)}
