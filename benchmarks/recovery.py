"""How soon does training go on after a worker or a node is lost, and how much of it is done again?

    .venv/bin/python -m benchmarks.recovery [--repeats 5]

One elastic run (`scaling.workers={min: 1, max: 2}`) of drawn people on a cluster of two nodes on this machine: its head
with room for one worker and another node with room for one. Again and again a worker's process is killed (SIGKILL),
then the other node (its raylet and all it runs, without a word), then a node is added. `worker_kill_seconds` and
`node_loss_seconds` are medians of the wall time from the kill to the end of the next optimizer step. `steps_redone` is
the most that was ever trained twice, which may not exceed the checkpoint interval. The last line is JSON; the whole
result is a dated file, with a plot of the throughput through all faults.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from matplotlib.figure import Figure
from ray.cluster_utils import Cluster

import raypose
from benchmarks.record import RESULTS, machine, record
from benchmarks.train_cpu import QUIET
from raypose.config import RunConfig
from raypose.errors import RunInterruptedError
from raypose.telemetry import Event, RunStarted, StepsDone
from tests.data_sets import build_synthetic, tiny_run

EVERY_STEPS = 10
SETTLED_STEPS = 15
"""Steps of undisturbed training before the next fault."""
OBJECT_STORE_BYTES = 100 * 2**20
NEVER = 10**6


@dataclass
class Fault:
    """Something that was done to the run, and what became of it."""

    kind: str
    at_s: float
    at_step: int
    seconds: float | None = None
    steps_redone: int | None = None
    workers: int | None = None


@dataclass
class Disturber:
    """A reporter that hears every step and, when training has settled, does the next thing to it."""

    cluster: Cluster
    second: Any
    repeats: int
    random: random.Random = field(default_factory=lambda: random.Random(0))
    faults: list[Fault] = field(default_factory=list)
    throughput: list[tuple[float, float, int]] = field(default_factory=list)
    """Seconds, images a second and workers."""
    began_s: float = field(default_factory=time.monotonic)
    workers: int = 0
    start_step: int = 0
    last_step: int = 0
    start_before: int = 0
    """Where the workers had started that the present fault is about."""
    is_over: bool = False

    def __call__(self, event: Event) -> None:
        now_s = time.monotonic() - self.began_s
        if isinstance(event, RunStarted):
            self.workers, self.start_step = event.workers, event.start_step
        elif isinstance(event, StepsDone):
            self.throughput.append((now_s, event.images_per_second, self.workers))
            self._note_recovery(event.step, now_s)
            self.last_step = event.step
            if event.step - self.start_step >= SETTLED_STEPS:
                self._disturb(now_s)

    def _note_recovery(self, step: int, now_s: float) -> None:
        fault = self.faults[-1] if self.faults else None
        if fault and fault.seconds is None and self.start_step != self.start_before:
            fault.seconds = round(now_s - fault.at_s, 2)
            fault.steps_redone = max(fault.at_step - self.start_step, 0)
            fault.workers = self.workers
            print(f"{fault}", flush=True)

    def _disturb(self, now_s: float) -> None:
        if self.is_over or (self.faults and self.faults[-1].seconds is None):
            return
        kinds = ("worker_kill", "node_loss", "node_added")
        done = len(self.faults)
        if done == len(kinds) * self.repeats:
            self.is_over = True
            os.kill(os.getpid(), signal.SIGINT)
            return
        kind = kinds[done % len(kinds)]
        self.start_before = self.start_step
        self.faults.append(Fault(kind, now_s, self.last_step))
        if kind == "worker_kill":
            kill_a_worker(self.random)
        elif kind == "node_loss":
            self.cluster.remove_node(self.second, allow_graceful=False)
        else:
            self.second = add_node(self.cluster)


def kill_a_worker(choice: random.Random) -> None:
    """SIGKILL to one of the processes that train."""
    workers = [
        process
        for process in psutil.Process().children(recursive=True)
        if "RayTrainWorker" in " ".join(process.cmdline())
    ]
    if workers:  # none is there while they start again
        choice.choice(workers).kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--imgsz", type=int, default=128)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    os.environ.update(QUIET | {"RAY_TRAIN_V2_ENABLED": "1"})
    at_start = machine()
    with tempfile.TemporaryDirectory(prefix="raypose-recovery-") as folder:
        build_synthetic(Path(folder) / "data", train=256, val=4, size_px=given.imgsz)
        disturber = disturbed_run(run_config(Path(folder), given.imgsz), given.repeats)
    summary = summarize(disturber.faults)
    settings = {"repeats": given.repeats, "imgsz": given.imgsz, "every_steps": EVERY_STEPS}
    faults = [vars(fault) for fault in disturber.faults]
    path = record("recovery", {"machine": at_start, "settings": settings, **summary, "faults": faults}, given.results)
    plot(disturber, path.with_suffix(".png"))
    print(json.dumps(summary))


def run_config(folder: Path, imgsz: int) -> RunConfig:
    return tiny_run(
        folder / "data", folder / "runs", "scaling.workers={min: 1, max: 2}", "scaling.cpus_per_worker=1",
        "scaling.resize_every_s=5", f"train.imgsz={imgsz}", f"train.epochs={NEVER}", f"val.every_epochs={NEVER}",
        f"checkpoint.every_epochs={NEVER}", f"checkpoint.every_steps={EVERY_STEPS}", "telemetry.log_every_steps=1",
        f"scaling.max_failures={NEVER}",
    )  # fmt: skip


@contextlib.contextmanager
def two_nodes() -> Iterator[tuple[Cluster, Any]]:
    """A cluster that RAY_ADDRESS names, and its second node; each node has room for one worker."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES})
    try:
        second = add_node(cluster)
        cluster.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = cluster.address
        yield cluster, second
    finally:
        cluster.shutdown()


def add_node(cluster: Cluster) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)


def disturbed_run(config: RunConfig, repeats: int) -> Disturber:
    with two_nodes() as (cluster, second):
        disturber = Disturber(cluster, second, repeats)
        try:
            raypose.train(config, report=disturber)
        except RunInterruptedError:
            return disturber
        raise SystemExit("the run ended by itself")


def summarize(faults: list[Fault]) -> dict[str, Any]:
    def median(kind: str) -> float:
        return statistics.median(fault.seconds or 0.0 for fault in faults if fault.kind == kind)

    return {
        "worker_kill_seconds": median("worker_kill"),
        "node_loss_seconds": median("node_loss"),
        "node_added_seconds": median("node_added"),
        "steps_redone": max(fault.steps_redone or 0 for fault in faults),
        "checkpoint_interval": EVERY_STEPS,
    }


def plot(disturber: Disturber, path: Path) -> None:
    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.add_subplot()
    times, speeds, workers = zip(*disturber.throughput, strict=True)
    axes.plot(times, speeds, ".", markersize=3, color="tab:blue", label="images a second")
    axes.step(times, [20 * count for count in workers], where="post", color="tab:gray", alpha=0.5, label="workers x 20")
    colours = {"worker_kill": "tab:red", "node_loss": "black", "node_added": "tab:green"}
    for kind, colour in colours.items():
        for number, fault in enumerate(fault for fault in disturber.faults if fault.kind == kind):
            axes.axvline(fault.at_s, color=colour, linewidth=1, label=None if number else kind.replace("_", " "))
    axes.set(xlabel="seconds", ylabel="images a second", title="Training through lost workers and nodes")
    axes.legend(loc="upper right", ncols=5)
    figure.savefig(path, dpi=110)
    print(f"plotted in {path}")


if __name__ == "__main__":
    main()
