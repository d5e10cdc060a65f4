"""A run as lines of JSON on a stream, for machines that collect logs."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TextIO

from raypose.structures import json_ready
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
        values = json_ready(asdict(event))
        self._step = event.start_step if isinstance(event, RunStarted) else values.get("step", self._step)
        line = {
            "time": round(self._clock(), 3),
            "level": "warning" if type(event).__name__ in ("WorkersFailed", "Notice") else "info",
            "event": type(event).__name__,
            "run": self._run,
            "host": self._host,
            "rank": 0,
            **values,  # null for what is not finite, as in `metrics.jsonl`
            "step": self._step,
        }
        if isinstance(event, RunStopped) and not event.interrupted:
            line["level"] = "error"
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()
