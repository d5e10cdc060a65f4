"""The log of a run as it grows, in a folder or a bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from raypose.checkpoint.locate import CONFIG, SUMMARY
from raypose.errors import CheckpointError
from raypose.storage import ObjectStore, open_store
from raypose.telemetry.logbook import read_rows


def tail(run: str, *, last: int, wait: Callable[[], object] | None = None) -> Iterator[dict[str, Any]]:
    """The `last` rows of the run's `metrics.jsonl`; with `wait`, also those that come, until the run has its summary.

    `wait` is called between two looks. A row whose step was told already, as after a restart, is not told again.
    Raises CheckpointError where there is no run.
    """
    store = open_store(run)
    if not store.exists(CONFIG):
        raise CheckpointError(f"{store.url}: no run there (no {CONFIG}); 'raypose runs list' names those there are")
    rows = list(read_rows(store))
    yield from rows[-last:] if last else ()
    told = _place(rows[-1]) if rows else (-1, "")
    while wait is not None and not _has_ended(store):
        wait()
        for row in read_rows(store):
            if _place(row) > told:
                told = _place(row)
                yield row


def _place(row: dict[str, Any]) -> tuple[int, str]:
    """Where a row stands in the log: at one step, training is told before validation."""
    return row["step"], row["kind"]


def _has_ended(store: ObjectStore) -> bool:
    return store.exists(SUMMARY)
