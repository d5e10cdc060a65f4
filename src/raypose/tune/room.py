"""How many trials a cluster has room for at a time, and what each of their workers gets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

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
        wanted = slots * _most_workers(sweep) * (sweep.base.scaling.cpus_per_worker or 1.0)
        return max(os.cpu_count() or 1, int(wanted))


def room_for(sweep: Sweep, resources: Mapping[str, float]) -> Room:
    """As the sweep wants it, else as many trials as the GPUs, or without GPUs the CPUs, have room for."""
    workers, scaling = _most_workers(sweep), sweep.base.scaling
    cpus, gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
    uses_gpu = scaling.device == "cuda" or (scaling.device == "auto" and gpus > 0)
    if isinstance(sweep.config.concurrency, int):
        slots = sweep.config.concurrency
    elif uses_gpu:
        slots = int(gpus // workers)
    else:
        slots = int(cpus // (workers * (scaling.cpus_per_worker or 1.0)))
    slots = max(1, min(slots, sweep.config.budget.trials))
    return Room(slots, scaling.cpus_per_worker or max(1.0, cpus // (slots * workers)))


def _most_workers(sweep: Sweep) -> int:
    """Of any trial."""
    domain = sweep.config.space.get("scaling.workers")
    if domain is None:
        return sweep.base.scaling.max_workers
    return max(value["max"] if isinstance(value, dict) else int(value) for value in corners(domain))
