"""Who may write to a run: whoever claimed it last. Those before are fenced off, not waited for.

Two starts of one run would otherwise write over each other. To wait until the first is surely dead would cost every
resume after a crash that time; instead a newcomer takes over at once, and whatever the older one still wants to write
is refused, also when its machine comes back after an hour.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import getpid
from pathlib import Path

from raypose.errors import RunTakenOverError, StorageError
from raypose.storage import ObjectStore, StoredObject

CLAIM_KEY = "writer.json"
_LOOK_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write to the run in `store`, until somebody claims it anew."""

    store: ObjectStore
    launch: str
    """One call of `raypose train`: its workers may be restarted and go on."""
    start: str = ""
    """One start of its workers: those of an earlier one may be alive on a node that is thought lost."""

    @classmethod
    def take(cls, store: ObjectStore) -> Claim:
        """For a new launch, whoever had it before."""
        claim = cls(store, secrets.token_hex(8))
        claim._write()
        return claim

    def require_shared(self) -> None:
        """Raise StorageError where this node has another folder of that name than the driver, which took the claim."""
        if not self.store.exists(CLAIM_KEY):
            raise StorageError(
                f"{self.store.place(CLAIM_KEY)}: not there on {socket.gethostname()}, though the driver has written it;"
                " on several machines storage has to be an s3:// URL, or a folder that all of them share"
            )

    def renewed(self) -> Claim:
        """For workers that have just started. Raises RunTakenOverError where another launch has it by now."""
        self.require()
        claim = replace(self, start=secrets.token_hex(8))
        claim._write()
        return claim

    def require(self) -> None:
        """Raise RunTakenOverError unless this is the last claim."""
        found = json.loads(self.store.read(CLAIM_KEY))
        if found["launch"] != self.launch or self.start not in ("", found["start"]):
            raise RunTakenOverError(
                f"{self.store.url}: process {found['process']} on {found['host']} has taken this run over at"
                f" {found['since']}; this one has stopped and writes no more: follow that one, it goes on from the last"
                " checkpoint"
            )

    def _write(self) -> None:
        record = {
            "launch": self.launch,
            "start": self.start,
            "host": socket.gethostname(),
            "process": getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        }
        self.store.write(CLAIM_KEY, json.dumps(record).encode())


@contextmanager
def watching(claim: Claim, tell: Callable[[RunTakenOverError], None]) -> Iterator[None]:
    """Until the end of the block, look every few seconds whether the claim holds; `tell` once that it does not."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_EVERY_S):
            try:
                claim.require()
            except RunTakenOverError as error:
                tell(error)
                return
            except StorageError:
                continue  # the next look, or the next write, will tell

    threading.Thread(target=watch, name="raypose-claim", daemon=True).start()
    try:
        yield
    finally:
        over.set()


@dataclass(frozen=True, slots=True)
class ClaimedStore:
    """A run's ObjectStore in which everything that changes it wants `claim` to hold.

    What is under way when the run is taken over still arrives. A checkpoint of which that is a part does not count,
    for its last part is another write; and one whose parts do not belong together fails its checksums.
    """

    inner: ObjectStore
    claim: Claim

    @property
    def url(self) -> str:
        return self.inner.url

    def place(self, key: str) -> str:
        return self.inner.place(key)

    def read(self, key: str) -> bytes:
        return self.inner.read(key)

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        return self.inner.read_range(key, start, stop)

    def size(self, key: str) -> int:
        return self.inner.size(key)

    def write(self, key: str, content: bytes) -> None:
        self.claim.require()
        self.inner.write(key, content)

    def write_new(self, key: str, content: bytes) -> bool:
        self.claim.require()
        return self.inner.write_new(key, content)

    def upload(self, path: Path, key: str) -> None:
        self.claim.require()
        self.inner.upload(path, key)

    def download(self, key: str, path: Path) -> None:
        self.inner.download(key, path)

    def exists(self, key: str) -> bool:
        return self.inner.exists(key)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        return self.inner.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        self.claim.require()
        self.inner.delete(keys)

    def child(self, prefix: str) -> ClaimedStore:
        return replace(self, inner=self.inner.child(prefix))
