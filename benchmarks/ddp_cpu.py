"""What do two workers, and Ray, cost on a CPU? The same global batch in three ways, on the same two cores.

    .venv/bin/python -m benchmarks.ddp_cpu [--repeats 5] [--steady 24]

`process` is one process with two threads and no Ray, `bare` two processes of one thread each that torch.distributed
brings together, `ray` the same two as `raypose train` starts them. All run the same engine on drawn people, 320 px,
batch 16, mosaic. Time is that of the wall, of `--steady` steps after a warm-up. Each measurement is its own process;
the ways take turns. `efficiency` is ray over process, `ray_ratio` ray over bare, each the median of the repeats'
ratios. The last line is JSON, and the whole result is a dated file.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, ROOT, machine, record
from benchmarks.train_cpu import QUIET
from raypose.config import RunConfig
from raypose.errors import RunInterruptedError
from raypose.launch.cluster import KEPT_MEMORY
from raypose.telemetry import Event, StepsDone
from tests.data_sets import build_synthetic, tiny_run
from tests.ports import free_port

WAYS = ("process", "bare", "ray")
BATCH, WARM_UP, LOG_EVERY = 16, 10, 2
NEVER = 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steady", type=int, default=24, help="timed steps, an even number")
    parser.add_argument("--architecture", default="yolo11n-pose")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        train_on_ray(given) if given.way == "ray" else train_bare(given)
        return
    at_start = machine()
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="raypose-ddp-") as folder:
        given.work = Path(folder)
        build_synthetic(given.work / "data", train=512, val=4, size_px=given.imgsz, shard_bytes=2**22)
        for repeat in range(given.repeats):
            turn = repeat % len(WAYS)
            for way in WAYS[turn:] + WAYS[:turn]:
                speeds[way].append(round(BATCH * given.steady / measure(way, given), 2))
                print(f"{repeat + 1} {way:8} {speeds[way][-1]:7.2f} images/s", flush=True)
    summary = summarize(speeds)
    settings = {key: getattr(given, key) for key in ("repeats", "steady", "architecture", "imgsz")} | {"batch": BATCH}
    record("ddp_cpu", {"machine": at_start, "settings": settings, **summary, "runs": speeds}, given.results)
    print(json.dumps(summary))


def measure(way: str, given: argparse.Namespace) -> float:
    """Seconds of the timed steps, as rank 0 tells of them."""
    port, processes = free_port(), 2 if way == "bare" else 1
    threads = {} if way == "ray" else {"OMP_NUM_THREADS": str(2 // processes)}
    started = [
        subprocess.Popen(
            [
                sys.executable, "-m", "benchmarks.ddp_cpu", "--way", way, "--work", given.work, "--rank", str(rank),
                "--port", str(port), "--steady", str(given.steady), "--architecture", given.architecture,
                "--imgsz", str(given.imgsz),
            ],
            cwd=ROOT, env=os.environ | QUIET | KEPT_MEMORY | threads, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(processes)
    ]  # fmt: skip
    outputs = [process.communicate()[0] for process in started]
    lines = [line.split() for line in outputs[0].splitlines() if line.startswith("STEADY ")]
    if not lines:
        raise SystemExit(f"{way} timed no steps:\n{outputs[0][-4000:]}")
    return float(lines[-1][1])


class Stopwatch:
    """A reporter that prints the seconds of the steps after the warm-up, and ends the process as Ctrl-C would."""

    def __init__(self, steady: int) -> None:
        self._steady = steady
        self._seconds: list[float] = []
        self.is_done = False

    def __call__(self, event: Event) -> None:
        if not isinstance(event, StepsDone):
            return
        self._seconds.extend(event.step_seconds)
        if event.step == WARM_UP + self._steady:
            print(f"STEADY {sum(self._seconds[-self._steady :])}", flush=True)
            self.is_done = True


def run_config(given: argparse.Namespace) -> RunConfig:
    """A run that neither ends nor validates while it is timed, with as many virtual workers as processes."""
    return tiny_run(
        given.work / "data", given.work / "runs", f"name={given.way}-{os.getpid()}", f"train.batch={BATCH}",
        f"train.imgsz={given.imgsz}", f"train.epochs={NEVER}", f"val.every_epochs={NEVER}",
        f"checkpoint.every_epochs={NEVER}", f"model.architecture={given.architecture}", f"train.nbs={BATCH}",
        f"telemetry.log_every_steps={LOG_EVERY}", f"scaling.workers={1 if given.way == 'process' else 2}",
        "scaling.cpus_per_worker=1",
    )  # fmt: skip


def train_on_ray(given: argparse.Namespace) -> None:
    import raypose

    watch = Stopwatch(given.steady)

    def report(event: Event) -> None:
        watch(event)
        if watch.is_done and isinstance(event, StepsDone) and event.step == WARM_UP + given.steady:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        raypose.train(run_config(given), report=report)
    except RunInterruptedError:
        return


def train_bare(given: argparse.Namespace) -> None:
    """The engine without Ray: alone, or as one of two that meet at a port of this machine."""
    import torch
    import torch.distributed as dist

    from raypose.engine.loop import run
    from raypose.engine.setup import prepare
    from raypose.engine.world import World
    from raypose.storage import open_store

    size = 2 if given.way == "bare" else 1
    torch.set_num_threads(2 // size)
    if size > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{given.port}", rank=given.rank, world_size=size)
    config = run_config(given)
    store = open_store(config.storage).child(config.name)
    watch: Any = Stopwatch(given.steady)
    parts = prepare(config, World(given.rank, size, local_size=size), store, watch)
    try:
        run(parts, watch if given.rank == 0 else _ignore, lambda: watch.is_done)
    except RunInterruptedError:
        return


def _ignore(event: Event) -> None:
    """Only rank 0 tells of the run."""


def summarize(speeds: dict[str, list[float]]) -> dict[str, Any]:
    def ratio(way: str) -> float:
        return round(statistics.median(ray / other for ray, other in zip(speeds["ray"], speeds[way], strict=True)), 3)

    return {
        "efficiency": ratio("process"),
        "ray_ratio": ratio("bare"),
        "images_per_second": {way: statistics.median(found) for way, found in speeds.items()},
    }


if __name__ == "__main__":
    main()
