"""How far a long command is, on a terminal and in a log."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

_PLAIN_LINE_EVERY_S = 10.0
_WHOLE_FROM_PER_S = 10.0
_RATE_OVER_S = 60.0
"""A rate is taken over this long: what an earlier attempt had finished flies past, and should not count for ever."""


class Advance(Protocol):
    """Hears how much is done and, where the command knows them, the bytes."""

    def __call__(self, done: int, done_bytes: int = 0, /) -> None: ...


@contextmanager
def show_progress(what: str, total: int, unit: str = "images") -> Iterator[Advance]:
    """A callback for what is done: a bar with rate and time left on a terminal, now and then a line elsewhere.

    `unit` is what is counted.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    pace = Pace(total, unit)
    pace.add(time.monotonic(), 0, 0)
    last_line_s = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(done: int, done_bytes: int = 0, /) -> None:
            nonlocal last_line_s
            now_s = time.monotonic()
            pace.add(now_s, done, done_bytes)
            bar.update(task, completed=done, rate=str(pace))
            if not console.is_terminal and now_s - last_line_s >= _PLAIN_LINE_EVERY_S:
                last_line_s = now_s
                console.print(f"{what}: {done:,} of {total:,}, {pace}", highlight=False, soft_wrap=True)

        yield advance


@dataclass(slots=True)
class Pace:
    """Rates and the time left, from what was done by when; reads as `120 images/s, 14.2 MB/s, 0:02:10 left`."""

    total: int
    unit: str = "images"
    marks: deque[tuple[float, int, int]] = field(default_factory=deque)

    def add(self, now_s: float, done: int, done_bytes: int) -> None:
        self.marks.append((now_s, done, done_bytes))
        while len(self.marks) > 2 and now_s - self.marks[1][0] > _RATE_OVER_S:
            self.marks.popleft()

    def __str__(self) -> str:
        (start_s, first, first_bytes), (now_s, done, done_bytes) = self.marks[0], self.marks[-1]
        seconds = max(now_s - start_s, 1e-6)
        per_s = (done - first) / seconds
        parts = [f"{_rate(per_s)} {self.unit}/s"]
        if done_bytes:
            parts.append(f"{(done_bytes - first_bytes) / 1e6 / seconds:,.1f} MB/s")
        if per_s > 0:
            minutes, rest_s = divmod(round((self.total - done) / per_s), 60)
            parts.append(f"{minutes // 60}:{minutes % 60:02}:{rest_s:02} left")
        return ", ".join(parts)


def _rate(per_s: float) -> str:
    """Two digits where few are done in a second: what takes longer than that is not done 0 times a second."""
    return f"{per_s:,.0f}" if per_s >= _WHOLE_FROM_PER_S else f"{per_s:.2g}"
