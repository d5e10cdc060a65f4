"""A store that is far away: a local folder whose downloads take time, count, fail and come damaged as told."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypose.errors import StorageError
from raypose.storage.local import LocalStore


@dataclass(frozen=True)
class RemoteStore:
    """Not a LocalStore, so shard sets in it go through a node cache. Pickles; all its state is in files.

    Downloads write half, wait `delay_s`, and write the rest. `damaged` of the downloads of each key, the first ones,
    have a bit flipped; `cut` leaves out the last byte.
    """

    root: Path
    log: Path
    delay_s: float = 0.0
    damaged: int = 0
    cut: bool = False

    @property
    def url(self) -> str:
        return f"far://{self.root.name}"

    def place(self, key: str) -> str:
        return f"{self.url}/{key}"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(LocalStore(self.root), name)

    def download(self, key: str, path: Path) -> None:
        if self.away.exists():
            raise StorageError(f"{self.place(key)}: cannot read: the server is away")
        with self.log.open("a") as log:
            log.write(f"{key} {os.getpid()}\n")
        content = bytearray(LocalStore(self.root).read(key))
        if self.downloads(key) <= self.damaged:
            content[len(content) // 2] ^= 0x10
        if self.cut:
            del content[-1]
        temporary = path.with_name(".partial-download")
        try:
            with temporary.open("wb") as file:
                file.write(content[: len(content) // 2])
                file.flush()
                time.sleep(self.delay_s)
                file.write(content[len(content) // 2 :])
            temporary.rename(path)
        except OSError as error:
            raise StorageError(f"{path}: cannot write: {error.strerror}") from error

    @property
    def away(self) -> Path:
        """While this file exists no download succeeds."""
        return self.log.with_suffix(".away")

    def downloads(self, key: str = "") -> int:
        """How often `key`, or anything, was asked for, by all processes."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return sum(line.startswith(key) for line in lines)
