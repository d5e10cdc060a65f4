"""What do checkpoints cost a training? Throughput with one every 20 steps to S3, against none.

    .venv/bin/python -m benchmarks.checkpoint [--steps 40] [--repeats 5]

Three ways take turns in one process, each a new run of the bare engine: no checkpoint, one every 20 steps written in
the background (as by default), and one every 20 steps that training waits for. Time is that of the wall, from the end
of step 20 to `--steps` steps later, with all that is due between steps. S3 is a server on this machine, so its work is
taken from training, too. Ratios are medians over the turns. The last line is JSON, and the whole result is a dated
file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.object_store import s3_server
from benchmarks.record import RESULTS, machine, record
from raypose.config import RunConfig
from raypose.config.s3_url import S3Location
from raypose.engine.loop import run
from raypose.engine.setup import prepare
from raypose.engine.world import World
from raypose.storage import open_store
from raypose.telemetry import CheckpointSaved, Event, StepsDone
from tests.data_sets import build_synthetic, tiny_run
from tests.s3.servers import SERVER_ENVIRONMENT, make_bucket

EVERY_STEPS = 20
BUCKET = "checkpoint-benchmark"
NEVER = 10**6
WAYS = {
    "none": [],
    "background": [f"checkpoint.every_steps={EVERY_STEPS}"],
    "waiting": [f"checkpoint.every_steps={EVERY_STEPS}", "checkpoint.background=false"],
}


class Measured(Exception):  # noqa: N818
    """Ends a run that has trained as long as it was to be timed."""


@dataclass
class Stopwatch:
    """A reporter that times the steps after the first EVERY_STEPS, and notes what each checkpoint cost."""

    last_step: int
    started_s: float = 0.0
    seconds: float = 0.0
    saved: list[CheckpointSaved] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if isinstance(event, CheckpointSaved):
            self.saved.append(event)
        elif isinstance(event, StepsDone) and event.step == EVERY_STEPS:
            self.started_s = time.monotonic()
        elif isinstance(event, StepsDone) and event.step == self.last_step:
            self.seconds = time.monotonic() - self.started_s
            raise Measured


def measure(config: RunConfig, steps: int) -> dict[str, Any]:
    """Train a new run for EVERY_STEPS + `steps` steps; images a second in the latter, and what checkpoints took."""
    watch = Stopwatch(EVERY_STEPS + steps)
    parts = prepare(config, World(), open_store(config.storage).child(config.name), watch)
    with contextlib.suppress(Measured):
        run(parts, watch)
    size_bytes = sum(entry.size_bytes for entry in parts.store.list(f"checkpoints/step-{EVERY_STEPS:08d}/"))
    parts.store.delete([entry.key for entry in parts.store.list()])
    return {
        "images_per_second": round(steps * config.train.batch / watch.seconds, 2),
        "blocked_seconds": [round(event.blocked_seconds, 4) for event in watch.saved],
        "durable_after_seconds": [round(event.seconds, 3) for event in watch.saved],
        "checkpoint_mib": round(size_bytes / 2**20, 1),
    }


def run_config(data: Path, storage: str, name: str, given: argparse.Namespace) -> RunConfig:
    """A run that neither ends nor validates while it is timed."""
    settings = [
        f"name={name}", f"model.architecture={given.architecture}", f"train.imgsz={given.imgsz}",
        f"train.batch={given.batch}", f"train.epochs={NEVER}", f"storage={storage}", f"checkpoint.every_epochs={NEVER}",
        f"val.every_epochs={NEVER}", f"telemetry.log_every_steps={EVERY_STEPS}", *WAYS[name],
    ]  # fmt: skip
    return tiny_run(data, Path("unused"), *settings)


def summarize(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    speed = {name: statistics.median(one["images_per_second"] for one in done) for name, done in runs.items()}

    def ratio(name: str) -> float:
        turns = zip(runs[name], runs["none"], strict=True)
        return round(statistics.median(one["images_per_second"] / none["images_per_second"] for one, none in turns), 3)

    def blocked(name: str) -> float:
        return round(statistics.median(seconds for one in runs[name] for seconds in one["blocked_seconds"]), 4)

    return {
        "ratio": ratio("background"),
        "ratio_sync": ratio("waiting"),
        "blocked_seconds_async": blocked("background"),
        "blocked_seconds_sync": blocked("waiting"),
        "images_per_second": speed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help=f"timed steps, a multiple of {EVERY_STEPS}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--architecture", default="yolo11n-pose")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    os.environ.update(SERVER_ENVIRONMENT)
    torch.set_num_threads(given.threads)
    at_start = machine()
    work = Path(tempfile.mkdtemp(prefix="raypose-checkpoint-"))
    data = build_synthetic(work / "data", train=512, val=4, size_px=given.imgsz, shard_bytes=2**22)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    with s3_server(work / "server") as (server, endpoint):
        make_bucket(endpoint, BUCKET)
        for repeat in range(given.repeats):
            turn = repeat % len(WAYS)
            for name in [*WAYS][turn:] + [*WAYS][:turn]:
                storage = S3Location(BUCKET, f"runs-{repeat}", endpoint_url=endpoint).url
                runs[name].append(measure(run_config(data, storage, name, given), given.steps))
                print(f"{repeat + 1} {name:10} {runs[name][-1]}", flush=True)
    shutil.rmtree(work)
    summary = summarize(runs)
    settings = {key: value for key, value in vars(given).items() if key != "results"}
    settings |= {"every_steps": EVERY_STEPS, "server": server}
    record("checkpoint", {"machine": at_start, "settings": settings, **summary, "runs": runs}, given.results)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
