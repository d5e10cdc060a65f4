"""How many trials a cluster has room for at a time, and what each of their workers gets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raypose.errors import ConfigError
from raypose.launch.nodes import cpus_for_each
from raypose.tune.checks import Sweep
from raypose.tune.space import corners


@dataclass(frozen=True, slots=True)
class Room:
    """Trials side by side, and CPUs for each worker of theirs."""

    slots: int
    cpus_per_worker: float

    @property
    def scaling(self) -> dict[str, float]:
        return {"cpus_per_worker": self.cpus_per_worker}

    @staticmethod
    def local_cpus(sweep: Sweep) -> int:
        """Ray's own Ray may count more CPUs than there are, so that trials side by side fit a small machine."""
        slots = sweep.config.concurrency if isinstance(sweep.config.concurrency, int) else 1
        wanted = slots * _workers(sweep)[1] * (sweep.base.scaling.cpus_per_worker or 1.0)
        return max(os.cpu_count() or 1, int(wanted))


def room_for(sweep: Sweep, nodes: Sequence[Mapping[str, float]]) -> Room:
    """As the sweep wants it, else as many trials as the GPUs, or without GPUs the CPUs, have room for.

    `nodes` are the resources of each. Raises ConfigError where that is none: how many there will be once a cluster has
    grown, nobody can tell.
    """
    (least, most), scaling = _workers(sweep), sweep.base.scaling
    cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    uses_gpu = scaling.device == "cuda" or (scaling.device == "auto" and gpus > 0)
    noun, found, each = ("GPUs", gpus, 1.0) if uses_gpu else ("CPUs", cpus, scaling.cpus_per_worker or 1.0)
    if isinstance(sweep.config.concurrency, int):
        slots = sweep.config.concurrency
    elif found < least * each:
        raise ConfigError(
            f"concurrency: auto: the cluster has {found:g} {noun} now, and one trial takes {least * each:g}; set"
            " concurrency to a number if nodes are yet to come, begin once they are there, or lower scaling.workers"
        )
    else:
        slots = int(found // (most * each))
    slots = max(1, min(slots, sweep.config.budget.trials))
    each_cpus = scaling.cpus_per_worker or cpus_for_each(nodes, slots * most, gpus=1.0 if uses_gpu else 0.0)
    return Room(slots, each_cpus)


def _workers(sweep: Sweep) -> tuple[int, int]:
    """With how few every trial makes do, and the most that any takes."""
    domain, scaling = sweep.config.space.get("scaling.workers"), sweep.base.scaling
    if domain is None:
        return scaling.min_workers, scaling.max_workers
    ranges = [value if isinstance(value, dict) else {"min": value, "max": value} for value in corners(domain)]
    return max(int(one["min"]) for one in ranges), max(int(one["max"]) for one in ranges)
