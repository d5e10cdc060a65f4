"""The nodes of the cluster that come and go while a run with a range of workers is under way."""

from __future__ import annotations

import contextlib
import time

_LOOK_EVERY_S = 1.0
_COORDINATOR = "AutoscalingCoordinator"
"""Name and namespace of Ray's actor that tells Ray Train what there is room for."""


class NodeWatch:
    """Has Ray count its nodes as soon as one has come or gone.

    By itself it counts every 20 s, and until then starts workers on a node that is no more, or leaves a new one idle.
    """

    def __init__(self) -> None:
        self._next_look_s = 0.0
        self._alive: frozenset[str] = frozenset()

    def look(self) -> None:
        """To be called often: it asks Ray once a second."""
        now_s = time.monotonic()
        if now_s < self._next_look_s:
            return
        self._next_look_s = now_s + _LOOK_EVERY_S
        import ray

        alive = frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])
        if alive == self._alive:
            return
        with contextlib.suppress(ValueError):  # Ray Train has not started it yet; it counts when it starts
            coordinator = ray.get_actor(_COORDINATOR, namespace=_COORDINATOR)
            coordinator.get_reserved_resources.remote("raypose", recompute=True)
        self._alive = alive
