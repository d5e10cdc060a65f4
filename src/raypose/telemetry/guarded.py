"""Listeners that may fail, while the run goes on."""

from __future__ import annotations

import traceback
from pathlib import Path

from raypose.telemetry.events import Event, Notice, Reporter


class Guarded:
    """A Reporter around one that may fail, as code of users and servers of others do.

    The first failure is a Notice; later events are tried all the same, because servers come back. `close` tells of
    all failures there were.
    """

    def __init__(self, name: str, reporter: Reporter, report: Reporter) -> None:
        self._name = name
        self._reporter = reporter
        self._report = report
        self._told = 0
        self._failed = 0

    def __call__(self, event: Event) -> None:
        self._told += 1
        try:
            self._reporter(event)
        except Exception as error:
            self._failed += 1
            if self._failed == 1:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                self._report(
                    Notice(
                        f"{self._name}: {type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno});"
                        " the run goes on without it"
                    )
                )

    def close(self) -> None:
        """The run is over."""
        if self._failed > 1:
            self._report(Notice(f"{self._name}: failed at {self._failed} of {self._told} events"))
