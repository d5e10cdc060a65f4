"""The nodes of the cluster: what each worker can have of them, and those that come and go while a run is under way."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence

from raypose.errors import ConfigError
from raypose.launch.cluster import cluster_address

_LOOK_EVERY_S = 1.0
_COORDINATOR = "AutoscalingCoordinator"
"""Name and namespace of Ray's actor that tells Ray Train what there is room for."""
_GPU_PARTS = 10_000
"""As finely as Ray divides a GPU. It rounds, so that six times a sixth would not fit."""


def alive_nodes() -> list[Mapping[str, float]]:
    """The resources of each node of the cluster that this process is connected to."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def cpus_for_each(nodes: Sequence[Mapping[str, float]], workers: int, *, gpus: float = 0.0) -> float:
    """The most whole CPUs that each of `workers` can have, at least 1: no worker is spread over two nodes.

    `nodes` are the resources of each, `gpus` what each worker takes besides.
    """
    total = sum(node.get("CPU", 0.0) for node in nodes)
    for cpus in range(int(total // workers), 1, -1):
        rooms = (
            min(node.get("CPU", 0.0) // cpus, node.get("GPU", 0.0) // gpus if gpus else math.inf) for node in nodes
        )
        if sum(rooms) >= workers:
            return float(cpus)
    return 1.0


def share_for(nodes: Sequence[Mapping[str, float]], workers: int, device: str) -> tuple[int, float]:
    """Whole CPUs, and GPUs, for each of `workers` that predict on `device`; fewer GPUs than workers are shared.

    `nodes` are the resources of each. Raises ConfigError where they would wait for a GPU that cannot come.
    """
    gpus = gpus_of(nodes)
    if not uses_gpu(nodes, device):
        return int(cpus_for_each(nodes, workers)), 0.0
    if not gpus and cluster_address() is None:  # a cluster may grow, this machine does not
        raise ConfigError(f"device {device}: Ray finds no GPU on this machine; use cpu or auto")
    on_one = math.ceil(workers / gpus) if gpus else 1
    share = _GPU_PARTS // on_one / _GPU_PARTS
    return int(cpus_for_each(nodes, workers, gpus=share)), share


def uses_gpu(nodes: Sequence[Mapping[str, float]], device: str) -> bool:
    """Whether workers on `device` need GPUs; `auto` takes them where a node has some."""
    return device.startswith("cuda") or (device == "auto" and gpus_of(nodes) > 0)


def gpus_of(nodes: Sequence[Mapping[str, float]]) -> float:
    """GPUs of all nodes together, by the resources of each."""
    return sum(node.get("GPU", 0.0) for node in nodes)


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
