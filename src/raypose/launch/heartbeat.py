"""Signs of life: which worker is silent, and where each one stands when one waits in vain for another."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os import getpid
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

BEAT_EVERY_S = 3.0
SILENT_AFTER_S = 20.0
_PACKAGE = str(Path(__file__).parents[1])


@dataclass(frozen=True, slots=True)
class Beat:
    """One worker is alive, and its training thread is here."""

    rank: int
    host: str
    pid: int
    place: str
    """Where in raypose's code, such as `engine/step.py:85 __call__`."""

    def __str__(self) -> str:
        return f"worker {self.rank} on {self.host} (process {self.pid}) at {self.place}"


class Heartbeats:
    """What is known of the workers of the present group. Times are the caller's clock in seconds."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[Beat, float]] = {}
        self._told: set[tuple[str, int]] = set()

    def note(self, beat: Beat, group_size: int, now_s: float) -> None:
        """A sign of life. Workers of an earlier, larger group are forgotten."""
        self._last = {rank: known for rank, known in self._last.items() if rank < group_size}
        self._last[beat.rank] = (beat, now_s)
        self._told.discard((beat.host, beat.pid))

    def forget(self, rank: int) -> None:
        """A worker has come to its end."""
        self._last.pop(rank, None)

    def newly_silent(self, now_s: float) -> list[Beat]:
        """The last words of workers that have been silent for too long; of each silence only once."""
        silent = [
            beat
            for beat, heard_s in self._last.values()
            if now_s - heard_s > SILENT_AFTER_S and (beat.host, beat.pid) not in self._told
        ]
        self._told |= {(beat.host, beat.pid) for beat in silent}
        return silent

    def standing(self, now_s: float) -> str:
        """Where every worker was last heard of."""
        return "; ".join(f"{beat}, {now_s - heard_s:.0f} s ago" for _, (beat, heard_s) in sorted(self._last.items()))


class HeartbeatThread(AbstractContextManager["HeartbeatThread"]):
    """Beats for the thread that makes it, as one of `group_size` workers, until the end of the block."""

    def __init__(self, monitor: Any, rank: int, group_size: int) -> None:
        self._monitor = monitor
        self._rank = rank
        self._group_size = group_size
        self._watched = threading.get_ident()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="raypose-heartbeat", daemon=True)

    def __enter__(self) -> HeartbeatThread:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if error is None:
            self._monitor.leave.remote(self._rank)

    def _beat(self) -> None:
        host, pid = socket.gethostname(), getpid()
        while True:
            beat = Beat(self._rank, host, pid, place_of(_frames(sys._current_frames().get(self._watched))))
            self._monitor.beat.remote(beat, self._group_size)
            if self._over.wait(BEAT_EVERY_S):
                return


def place_of(frames: Iterable[tuple[str, int, str]]) -> str:
    """The innermost of (file, line, function) that lies in this package."""
    for file, line, function in frames:
        if file.startswith(_PACKAGE):
            return f"{Path(file).relative_to(_PACKAGE)}:{line} {function}"
    return "its end"


def _frames(frame: FrameType | None) -> Iterable[tuple[str, int, str]]:
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
        frame = frame.f_back
