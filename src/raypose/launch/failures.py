"""Why workers failed, told to the driver: a word for statistics and a line to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.exceptions import OutOfMemoryError, RayActorError, RayError
from ray.train import UserCallback

from raypose.telemetry import WorkersFailed
from raypose.telemetry.metric_table import RESTART_CAUSES


class TellFailures(UserCallback):  # type: ignore[misc]  # Ray is not checked
    """Runs in Ray's controller. `monitor` is the run's RunMonitor, an actor."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor

    def after_exception(self, run_context: object, worker_exceptions: Mapping[int, Exception]) -> None:
        """Ray: some workers have raised, or are gone."""
        self._monitor.push.remote(failure_of(worker_exceptions))


def failure_of(worker_exceptions: Mapping[int, Exception]) -> WorkersFailed:
    """The most telling of what happened to workers, by rank."""
    causes = {rank: _cause_of(error) for rank, error in worker_exceptions.items()}
    rank = min(causes, key=lambda one: (RESTART_CAUSES.index(causes[one]), one))
    return WorkersFailed(causes[rank], f"worker {rank}: {last_line(worker_exceptions[rank])}")


def last_line(error: BaseException) -> str:
    """What an exception says in the end: Ray puts the traces of other processes before it."""
    lines: list[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _cause_of(error: Exception) -> str:
    # Ray Train wraps what its health check found; its own class is private.
    found = getattr(error, "health_check_failure", error)
    if isinstance(found, OutOfMemoryError):
        return "out_of_memory"
    if isinstance(found, RayActorError) and found.preempted:
        return "preempted"
    if isinstance(found, RayError):
        return "node_lost" if "node has died" in str(found) else "worker_lost"
    return "worker_hung" if type(error).__name__ == "WorkerHealthCheckTimeoutError" else "error"
