"""A run as lines of JSON on a stream, for machines that collect logs."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TextIO

from raypose.telemetry.events import Event, RunStarted, RunStopped


class JsonLines:
    """A Reporter that writes each event as one line, with the time, the run, the host and the last step that is known.

    `host` is that of the driver. Events come from the leader, rank 0, but for those about workers that are lost.
    """

    def __init__(self, stream: TextIO, run: str, clock: Callable[[], float] = time.time) -> None:
        self._stream = stream
        self._run = run
        self._clock = clock
        self._host = socket.gethostname()
        self._step: int | None = None

    def __call__(self, event: Event) -> None:
        values = {name: _ready(value) for name, value in asdict(event).items()}
        self._step = event.start_step if isinstance(event, RunStarted) else values.get("step", self._step)
        line = {
            "time": round(self._clock(), 3),
            "level": "warning" if type(event).__name__ in ("WorkersFailed", "Notice") else "info",
            "event": type(event).__name__,
            "run": self._run,
            "host": self._host,
            "rank": 0,
            **values,
            "step": self._step,
        }
        if isinstance(event, RunStopped) and not event.interrupted:
            line["level"] = "error"
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()


def _ready(value: Any) -> Any:
    """JSON has no number for what is not finite: null, as in `metrics.jsonl`."""
    if isinstance(value, dict):
        return {name: _ready(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_ready(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
