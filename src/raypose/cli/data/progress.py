"""How far a long command is, on a terminal and in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PLAIN_LINE_EVERY_S = 10.0


@contextmanager
def show_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A callback for the number done: a bar with rate on a terminal, now and then a line elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    started_s = last_line_s = time.monotonic()
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(done: int) -> None:
            nonlocal last_line_s
            now_s = time.monotonic()
            rate = f"{done / max(now_s - started_s, 1e-6):,.0f} images/s"
            bar.update(task, completed=done, rate=rate)
            if not console.is_terminal and now_s - last_line_s >= _PLAIN_LINE_EVERY_S:
                last_line_s = now_s
                console.print(f"{what}: {done:,} of {total:,}, {rate}", highlight=False)

        yield advance
