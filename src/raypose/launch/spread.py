"""Pieces of work as Ray tasks: on this machine, or on all nodes of the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from raypose.data.build.runners import outcome_of
from raypose.errors import RayposeError
from raypose.launch.cluster import ray_cluster

Task = TypeVar("Task")
Result = TypeVar("Result")

_TASKS_A_CPU = 2
"""In hand for each CPU: one that runs, one that waits, so that no CPU waits and an autoscaler sees the demand."""
_PATIENCE_S = 60.0
_LOOK_EVERY_S = 5.0
"""How often it is looked whether nodes have come."""


@dataclass(frozen=True, slots=True)
class RayTasks:
    """Up to `at_once` tasks of `cpus` and `gpus` each, by default two for each CPU that the cluster has by then.

    Ray repeats a task whose node is lost: do only work here that may be done twice.
    """

    at_once: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    def run(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Generator[tuple[int, Result], None, None]:
        """A `raypose.data.build.Runner`."""
        with ray_cluster():
            import ray

            options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": 5, "scheduling_strategy": "SPREAD"}
            yield from _deal(ray.remote(**options)(outcome_of), work, tasks, self._limit)

    def _limit(self) -> int:
        import ray

        return self.at_once or max(1, int(_TASKS_A_CPU * ray.cluster_resources().get("CPU", 1)))


def _deal(
    remote: Any, work: Callable[[Any], Any], tasks: Sequence[Any], limit: Callable[[], int]
) -> Generator[tuple[int, Any], None, None]:
    import ray

    shared = ray.put(work)  # sent to each node once, not with every task
    left, running = iter(enumerate(tasks)), dict[Any, int]()
    most, looked_s = limit(), time.monotonic()
    try:
        while True:
            for index, task in itertools.islice(left, max(0, most - len(running))):
                running[remote.remote(shared, task)] = index
            if not running:
                return
            for done in ray.wait(list(running), timeout=_LOOK_EVERY_S)[0]:
                yield running.pop(done), _result(done)
            if time.monotonic() - looked_s >= _LOOK_EVERY_S:
                most, looked_s = limit(), time.monotonic()
    finally:
        for reference in running:
            ray.cancel(reference)  # interrupts it, so that uploads and temporary files end in good order
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=_PATIENCE_S)


def _result(reference: Any) -> Any:
    import ray

    try:
        outcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RayposeError(f"a Ray task failed: {lines[-1].strip()}; see Ray's logs") from error
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
