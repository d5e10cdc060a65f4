"""The line between a run's workers and its driver: an actor that outlives both a worker and its restarts."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

import ray

from raypose.errors import RayposeError
from raypose.telemetry import Event, Reporter

_POLL_S = 0.3


class RunMonitor:
    """Keeps events until the driver collects them, and the error that ended the run. Made a Ray actor by the driver."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._failure: RayposeError | None = None

    def push(self, event: Event) -> None:
        self._events.append(event)

    def drain(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def fail(self, error: RayposeError) -> None:
        """An error that a restart would only repeat. The first one counts."""
        self._failure = self._failure or error

    def failure(self) -> RayposeError | None:
        return self._failure


class EventPump:
    """Moves events from the monitor to a reporter in the driver, in a thread, until it is closed."""

    def __init__(self, monitor: Any, report: Reporter) -> None:
        self._monitor = monitor
        self._report = report
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._pump, name="raypose-event-pump", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()
        # After an interrupt Ray may be gone; what it still held is not worth another error.
        if kind is None:
            self._drain()

    def _pump(self) -> None:
        while not self._closing.wait(_POLL_S):
            try:
                self._drain()
            except ray.exceptions.RayError:
                return

    def _drain(self) -> None:
        for event in ray.get(self._monitor.drain.remote()):
            self._report(event)
