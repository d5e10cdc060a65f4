"""`raypose` as a process of its own, which ends with the test, and how far the run that it trains has come."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raypose.checkpoint import CheckpointStore
from raypose.storage import ObjectStore

MAIN = "from raypose.cli import main; main()"
RAYPOSE = [sys.executable, "-c", MAIN]


@dataclass(frozen=True)
class Command:
    """One that was started, and the file that it writes into."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_until(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        """Fails where the command ends before, or takes longer."""
        deadline_s = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"it ended too early:\n{self.log.read_text()}"
            assert time.monotonic() < deadline_s, f"after {seconds:g} s:\n{self.log.read_text()}"
            time.sleep(0.05)


@contextmanager
def running(arguments: Sequence[str], log: Path) -> Iterator[Command]:
    """`raypose` in a session of its own; if it still lives in the end, it is killed with all of its process group."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            [*RAYPOSE, *arguments], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield Command(process, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def newest_step(run: ObjectStore) -> int:
    """That a run has saved; 0 before its first checkpoint."""
    return max((saved.step for saved in CheckpointStore(run).saved()), default=0)
