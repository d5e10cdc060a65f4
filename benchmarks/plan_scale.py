"""The plan at any scale: 10^9 samples in 10^5 shards, read by 1 to 1024 workers on 1 to 128 nodes, simulated.

The recipe is the same throughout: 1,024 lanes (virtual workers) with micro-batches of 8. Each number of workers is
measured in a process of its own: what a worker's plan takes in memory and in each step, from the middle of an epoch
and across the end of one. Then a whole epoch is read sample by sample, and nodes are simulated that keep no more than
their lanes' present windows, with a node lost and another added on the way. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plan_simulation import Fetching, Recipe, cover_epoch, fetch, history, lanes_of, uses_until

from raypose.data import ring
from raypose.data.steps import worker_steps

FULL = Recipe(samples=10**9, shards=10**5, lanes=1024, micro_batch=8, window=8192)
QUICK = Recipe(samples=200_000, shards=400, lanes=16, micro_batch=8, window=1024)
MAX_PLAN_BYTES = 200 * 2**20
MAX_STEP_MS = 1.0
MAX_OVER_SHARE = 1.25


# What one worker's plan takes, measured in a process of its own.


@dataclass(frozen=True, slots=True)
class Measured:
    """Steps are the quickest of the repeats, one by one, so that what else the machine does is left out."""

    workers: int
    lanes: int
    start_ms: float
    median_ms: float
    p99_ms: float
    max_ms: float
    p99_of_all_repeats_ms: float
    slowest_shuffled_windows: int
    slowest_turned_rings: int
    rss_bytes: int
    traced_bytes: int


def measure(recipe: Recipe, workers: int, steps: int, repeats: int) -> Measured:
    """The worker of the last rank. Resident memory is asked for before tracing, which takes some itself."""
    lanes = lanes_of(workers - 1, workers, recipe.lanes)
    rss_before = _status_bytes("VmRSS")
    start = time.perf_counter()
    plan = recipe.plan()
    next(worker_steps(plan, lanes, plan.steps_of(1) // 2))
    start_ms = 1e3 * (time.perf_counter() - start)
    del plan
    runs = [_timed_steps(recipe, lanes, steps) for _ in range(repeats)]
    rss_bytes = _status_bytes("VmHWM") - rss_before
    each_ms = np.array([run_ms for run_ms, _ in runs])
    best_ms = each_ms.min(axis=0)
    shuffled, turned = runs[0][1][int(best_ms.argmax())]
    tracemalloc.start()
    _timed_steps(recipe, lanes, steps)
    traced_bytes = tracemalloc.get_traced_memory()[1]
    return Measured(
        workers=workers,
        lanes=len(lanes),
        start_ms=start_ms,
        median_ms=float(np.median(best_ms)),
        p99_ms=float(np.quantile(best_ms, 0.99)),
        max_ms=float(best_ms.max()),
        p99_of_all_repeats_ms=float(np.quantile(each_ms, 0.99)),
        slowest_shuffled_windows=shuffled,
        slowest_turned_rings=turned,
        rss_bytes=rss_bytes,
        traced_bytes=traced_bytes,
    )


def _timed_steps(recipe: Recipe, lanes: Sequence[int], steps: int) -> tuple[list[float], list[tuple[int, int]]]:
    """Milliseconds of each step, and the windows shuffled and rings turned in it; after the first steps of a start."""
    plan = recipe.plan()
    taken_ms, work = [], []
    for first in (plan.steps_of(1) // 2, max(0, plan.epoch_end_step(0) - steps // 2)):
        planned = worker_steps(plan, lanes, first)
        next(planned)
        for _ in range(steps):
            before = WORK.copy()
            start = time.perf_counter()
            next(planned)
            taken_ms.append(1e3 * (time.perf_counter() - start))
            work.append((WORK["windows"] - before["windows"], WORK["rings"] - before["rings"]))
    return taken_ms, work


WORK = {"windows": 0, "rings": 0}
"""Counted to say what the slowest step was busy with."""


def count_work() -> None:
    """Counts the two costly things that a plan does, by the random words that each of them draws once."""
    random_bits = ring.random_bits

    def counted(entropy: tuple[int, ...], size: int) -> NDArray[np.uint64]:
        WORK["rings" if entropy[1] == ring.EPOCH_ORDER else "windows"] += 1
        return random_bits(entropy, size)

    ring.random_bits = counted


def _status_bytes(field: str) -> int:
    """Resident memory now (VmRSS) or at its peak (VmHWM). Not getrusage, whose peak is inherited from the parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"plan_scale: /proc/self/status has no {field}; this benchmark needs Linux")


def measure_apart(workers: int, options: Sequence[str]) -> Measured:
    command = [sys.executable, __file__, "--measure", str(workers), *options]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Measured(**json.loads(output))


# What holds for all workers together.


def same_samples_for_any_workers(recipe: Recipe, worker_counts: Sequence[int]) -> bool:
    """In a step at random, the workers' samples end to end are a single worker's; and any number shares all lanes."""
    from raypose.engine.world import World

    for size in range(1, recipe.lanes + 1):
        shares = [World(rank, size).lanes(recipe.lanes) for rank in range(size)]
        if shares != [lanes_of(rank, size, recipe.lanes) for rank in range(size)]:
            return False
        if [lane for share in shares for lane in share] != list(range(recipe.lanes)):
            return False
    plan = recipe.plan()
    step = int(np.random.default_rng(recipe.seed).integers(2 * plan.steps_of(1)))
    alone = next(worker_steps(plan, range(recipe.lanes), step))
    return all(
        np.array_equal(
            alone, np.concatenate([next(worker_steps(plan, share, step)) for share in _shares(recipe, size)])
        )
        for size in worker_counts
    )


def _shares(recipe: Recipe, workers: int) -> list[range]:
    return [lanes_of(rank, workers, recipe.lanes) for rank in range(workers)]


def work_spread(recipe: Recipe, workers: int) -> float:
    """Samples of the worker with most of them over those of the one with fewest, in every step alike."""
    counts = [len(share) for share in _shares(recipe, workers)]
    return max(counts) / min(counts)


# The run.


def run(recipe: Recipe, *, quick: bool, steps: int, repeats: int, processes: int) -> dict[str, Any]:
    worker_counts = [2**power for power in range(recipe.lanes.bit_length())]
    options = ["--steps", str(steps), "--repeats", str(repeats), *(["--quick"] if quick else [])]
    measured = []
    print("workers  lanes each   start ms  step ms: median     p99     max   plan MiB (traced)")
    for workers in worker_counts:
        one = measure_apart(workers, options)
        measured.append(one)
        step = f"{one.median_ms:15.3f} {one.p99_ms:7.3f} {one.max_ms:7.3f}"
        memory = f"{one.rss_bytes / 2**20:9.1f} ({one.traced_bytes / 2**20:.1f})"
        print(f"{workers:7}  {one.lanes:10}  {one.start_ms:9.1f}  {step}  {memory}", flush=True)
    slowest = max(measured, key=lambda one: one.max_ms)
    print(
        f"the slowest step of all, {slowest.max_ms:.2f} ms, turned {slowest.slowest_turned_rings} ring(s) (the next"
        f" epoch's order of shards, once an epoch) and shuffled {slowest.slowest_shuffled_windows} window(s)"
    )
    same = same_samples_for_any_workers(recipe, worker_counts)
    print(f"the samples of a step are the same for {worker_counts[0]} to {worker_counts[-1]} workers: {same}")
    start = time.perf_counter()
    coverage = cover_epoch(recipe, 1, processes)
    found = f"{coverage.read:,} read, {coverage.twice} twice, {coverage.missed} missed"
    print(f"epoch 1 of {recipe.samples:,} samples: {found} ({time.perf_counter() - start:.0f} s)", flush=True)
    nodes, fetching = _fetching(recipe)
    for count, one_node in zip(nodes, fetching, strict=True):
        print(f"{count:4} nodes: {one_node.over_share:.4f} of its share, {one_node.held_bytes / 2**30:.1f} GiB held")
    return {
        "workers": [asdict(one) for one in measured],
        "same_samples_for_any_workers": same,
        "coverage": asdict(coverage),
        "work_spread": [work_spread(recipe, workers) for workers in worker_counts],
        "nodes": [{"nodes": count, **asdict(one)} for count, one in zip(nodes, fetching, strict=True)],
    }


def _fetching(recipe: Recipe) -> tuple[list[int], list[Fetching]]:
    plan = recipe.plan()
    epoch_steps = plan.steps_of(1)
    nodes = [2**power for power in range(recipe.lanes.bit_length() - 3)]
    uses = uses_until(plan, history(1, epoch_steps)[-1].stop)
    return nodes, [fetch(recipe, uses, history(count, epoch_steps)) for count in nodes]


def verdicts(recipe: Recipe, result: dict[str, Any]) -> dict[str, Any]:
    """Figures that the claims are about, and whether each holds."""
    workers, coverage = result["workers"], result["coverage"]
    figures = {
        "plan_mib": max(max(one["rss_bytes"], one["traced_bytes"]) for one in workers) / 2**20,
        "step_median_ms": max(one["median_ms"] for one in workers),
        "step_p99_ms": max(one["p99_ms"] for one in workers),
        "step_max_ms": max(one["max_ms"] for one in workers),
        "read_twice_or_missed": coverage["twice"] + coverage["missed"],
        "work_spread": max(result["work_spread"]),
        "fetched_over_share": max(one["over_share"] for one in result["nodes"]),
    }
    exact = coverage["read"] == recipe.samples and figures["read_twice_or_missed"] == 0
    return {
        **{name: round(value, 4) for name, value in figures.items()},
        "memory_ok": figures["plan_mib"] * 2**20 < MAX_PLAN_BYTES,
        "step_ok": figures["step_p99_ms"] < MAX_STEP_MS,
        "exactly_once_ok": bool(exact and result["same_samples_for_any_workers"]),
        "equal_work_ok": figures["work_spread"] == 1.0,
        "fetched_ok": figures["fetched_over_share"] <= MAX_OVER_SHARE,
    }


def plot(result: dict[str, Any], recipe: Recipe, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 5, figsize=(20, 3.6), layout="constrained")
    memory, speed, exact, work, fetched = axes
    counts = [one["workers"] for one in result["workers"]]
    for key, name in (("rss_bytes", "resident"), ("traced_bytes", "allocated")):
        memory.plot(counts, [one[key] / 2**20 for one in result["workers"]], "o-", label=name)
    memory.axhline(MAX_PLAN_BYTES / 2**20, color="grey", ls="--")
    memory.set(title="planning memory of a worker", ylabel="MiB", ylim=(0, 220))
    for key in ("median_ms", "p99_ms", "max_ms"):
        speed.plot(counts, [one[key] for one in result["workers"]], "o-", label=key.removesuffix("_ms"))
    speed.axhline(MAX_STEP_MS, color="grey", ls="--")
    speed.set(title="a step's plan for a worker", ylabel="ms", yscale="log")
    coverage = result["coverage"]
    bars = exact.bar(
        ["data set", "read", "twice", "missed"],
        [recipe.samples, coverage["read"], coverage["twice"], coverage["missed"]],
    )
    exact.bar_label(bars, fmt="{:,.0f}", fontsize=7)
    exact.set(title="samples of an epoch")
    exact.margins(y=0.15)
    work.plot(counts, result["work_spread"], "o-")
    work.set(title="most over least work of a worker", ylim=(0.9, 1.3))
    fetched.plot([one["nodes"] for one in result["nodes"]], [one["over_share"] for one in result["nodes"]], "o-")
    fetched.axhline(MAX_OVER_SHARE, color="grey", ls="--")
    fetched.set(title="bytes fetched by a node over its share", xlabel="nodes", ylim=(0.9, 1.3), xscale="log")
    for axis in (memory, speed, work):
        axis.set(xlabel="workers", xscale="log")
    memory.legend()
    speed.legend()
    figure.savefig(path, dpi=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a small data set and 16 lanes, in seconds: proves nothing"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--steps", type=int, help="measured in each of two places [3000]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that read the epoch")
    parser.add_argument("--measure", type=int, metavar="WORKERS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    recipe = QUICK if arguments.quick else FULL
    steps = arguments.steps or (300 if arguments.quick else 3000)
    if arguments.measure:
        count_work()
        print(json.dumps(asdict(measure(recipe, arguments.measure, steps, arguments.repeats))))
        return
    start = time.perf_counter()
    result = run(recipe, quick=arguments.quick, steps=steps, repeats=arguments.repeats, processes=arguments.processes)
    summary = verdicts(recipe, result) | {"seconds": round(time.perf_counter() - start)}
    now = datetime.now(UTC)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"plan_scale-{now:%Y-%m-%d}{'-quick' if arguments.quick else ''}.json"
    machine = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    settings = asdict(recipe) | {"steps": steps, "repeats": arguments.repeats}
    record = {"date": f"{now:%Y-%m-%d}", "machine": machine, "settings": settings, "summary": summary, **result}
    path.write_text(json.dumps(record, indent=1) + "\n")
    plot(result, recipe, path.with_suffix(".png"))
    print(f"written: {path} and {path.with_suffix('.png').name}")
    print(json.dumps(summary))


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
