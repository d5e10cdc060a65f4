"""The line between a run's workers and its driver: an actor that outlives both a worker and its restarts."""

from __future__ import annotations

import shlex
import time

from raypose.errors import RayposeError, RunInterruptedError
from raypose.launch.heartbeat import SILENT_AFTER_S, Beat, Heartbeats
from raypose.telemetry import Event, Notice, WorkersFailed

SLOW_START_S = 60.0


class RunMonitor:
    """Keeps events until the driver collects them, and what one side must tell the other. Lives as a Ray actor."""

    def __init__(self, run: str, wanted: str) -> None:
        """`run` is where it lies, `wanted` says how many workers there are to be, and what each of them takes."""
        self._run = run
        self._wanted = wanted
        self._waits_since_s: float | None = time.monotonic()
        self._waiting_was_told = False
        self._events: list[Event] = []
        self._outcome: RayposeError | None = None
        self._stop_requested = False
        self._moves = False
        self._heartbeats = Heartbeats()

    def begin(self) -> RayposeError | None:
        """Worker: it starts, unless the run is over for the reason that is returned."""
        self._moves = False
        self._waits_since_s = None
        return self._outcome

    def move(self) -> None:
        """Worker: all of them have saved, and end, because some of their nodes will soon be gone."""
        self._moves = True
        self._wait()

    def moves(self) -> bool:
        """Driver: whether the workers have ended only to go on elsewhere."""
        return self._moves

    def push(self, event: Event) -> None:
        """Worker: something happened."""
        self._events.append(event)
        if isinstance(event, WorkersFailed):
            self._wait()
            if event.cause == "worker_lost":  # NCCL ends a process that has waited in vain before it could say for whom
                self._events.append(Notice(f"where the workers were last heard of: {self.standing()}"))

    def news(self) -> tuple[list[Event], bool]:
        """Driver: what `drain` and `is_given_up` say, in one call: several a second would take time from training."""
        return self.drain(), self.is_given_up()

    def drain(self) -> list[Event]:
        """What happened since the last call; that a worker has fallen silent, or that none starts, too."""
        events, self._events = self._events, []
        silent = self._heartbeats.newly_silent(time.monotonic())
        events += [Notice(f"not heard of for {SILENT_AFTER_S:.0f} s: {beat}") for beat in silent]
        waits_since_s = self._waits_since_s
        if waits_since_s is not None and not self._waiting_was_told and time.monotonic() - waits_since_s > SLOW_START_S:
            self._waiting_was_told = True
            events.append(
                Notice(
                    f"no worker has started for {SLOW_START_S:.0f} s: {self._wanted}; the run waits for nodes that have"
                    " room ('ray status' shows what they have), or stop it and ask for less"
                )
            )
        return events

    def end(self, outcome: RayposeError) -> None:
        """Worker: the run is over for a reason that a restart would not change. The first reason counts."""
        self._outcome = self._outcome or outcome

    def outcome(self) -> RayposeError | None:
        """Why the run is over, if it is over for a reason of its own."""
        return self._outcome

    def beat(self, beat: Beat, group_size: int) -> None:
        """Worker: alive."""
        self._heartbeats.note(beat, group_size, time.monotonic())

    def leave(self, rank: int) -> None:
        """Worker: done, do not wait for another beat."""
        self._heartbeats.forget(rank)

    def standing(self) -> str:
        """Worker: where all of them were last heard of."""
        return self._heartbeats.standing(time.monotonic())

    def request_stop(self) -> None:
        """Driver: save and stop at the next opportunity; at once where no worker is there to save anything."""
        self._stop_requested = True
        self._give_up_waiting()

    def is_given_up(self) -> bool:
        """Whether the run was to stop while it waited for workers: nobody needs to wait for them any more."""
        return self._stop_requested and self._waits_since_s is not None

    def stop_requested(self) -> bool:
        """Worker: whether somebody wants the run to stop."""
        return self._stop_requested

    def _wait(self) -> None:
        self._waits_since_s = time.monotonic()
        self._waiting_was_told = False
        self._give_up_waiting()

    def _give_up_waiting(self) -> None:
        if self.is_given_up():  # workers that start all the same are told so when they begin
            self.end(
                RunInterruptedError(
                    f"{self._run}: stopped while it waited for workers; continue with: raypose train --resume"
                    f" {shlex.quote(self._run)}"
                )
            )
