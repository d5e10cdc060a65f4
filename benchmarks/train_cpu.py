"""How many images a second are trained on a CPU, end to end? `raypose train` against `yolo pose train device=cpu`.

    .venv/bin/python -m benchmarks.train_cpu [--repeats 5] [--steady 24]

Real photographs (Leeds Sports Pose Extended), 320 px, batch 16, mosaic and all other settings as each has them by
default: what a user gets who gives data, size and batch. raypose has a worker on each core. Time is that of the wall,
of `--steady` steps after a warm-up, with reading, decoding and augmenting, without validation. `ultralytics_tuned` is
Ultralytics with all cores for torch and without its deterministic mode. Each measurement is a process of its own;
contestants take turns. The result is the median of the repeats: `ratio` is raypose's over Ultralytics' defaults,
`ratio_tuned` over the tuned one, each on the architecture where it is smaller. The last line is JSON, and the whole
result is a dated file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, ROOT, machine, record
from raypose.data.build import build_shard_set
from raypose.data.exporters.yolo import DATA_YAML_KEY, export_yolo
from raypose.data.importers.coco import read_coco
from raypose.data.shard_set import ShardSet

ARCHITECTURES = ("yolo11n-pose", "yolo26n-pose")
CONTESTANTS = ("raypose", "ultralytics", "ultralytics_tuned")
IMGSZ, BATCH, EPOCHS = 320, 16, 50
WARM_UP = 10
LOG_EVERY = 2
QUIET = {"YOLO_OFFLINE": "true", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steady", type=int, default=24, help="timed steps, an even number")
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--lspet", type=Path, default=ROOT.parent / "shared" / "data" / "lspet")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--contestant", nargs=3, metavar=("NAME", "ARCHITECTURE", "WORK"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contestant:
        name, architecture, work = given.contestant
        train = train_raypose if name == "raypose" else train_ultralytics
        train(name, architecture, Path(work), given.steady)
        return
    at_start = machine()
    with tempfile.TemporaryDirectory(prefix="raypose-train-cpu-") as folder:
        work = Path(folder)
        prepare(work, given.lspet)
        runs = {
            architecture: measure(work, architecture, given.only, given.repeats, given.steady)
            for architecture in given.architectures
        }
    summary = summarize(runs)
    if set(CONTESTANTS) == set(given.only):
        record("train_cpu", {"machine": at_start, "settings": settings(given), **summary, "runs": runs}, given.results)
    print(json.dumps(summary))


def prepare(work: Path, lspet: Path) -> None:
    """The same images for both: shards, and from them a YOLO folder."""
    for split in ("train", "val"):
        build_shard_set(read_coco(lspet / "annotations" / f"{split}.json", lspet / split), str(work / split))
    sets = [ShardSet.open(str(work / split)) for split in ("train", "val")]
    export_yolo(sets[0], str(work / "yolo"), val=sets[1])


def measure(work: Path, architecture: str, contestants: list[str], repeats: int, steady: int) -> dict[str, list[float]]:
    """Images a second of each contestant, `repeats` times."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats):
        for name in contestants:
            speed = train_once(work, architecture, name, steady)
            found[name].append(round(speed, 2))
            print(f"{repeat + 1} {architecture} {name:18} {speed:7.2f} images/s", flush=True)
    return found


def train_once(work: Path, architecture: str, name: str, steady: int) -> float:
    """Start one contestant and time the steps it tells of."""
    command = [
        sys.executable, "-m", "benchmarks.train_cpu", "--steady", str(steady), "--contestant", name, architecture, work,
    ]  # fmt: skip
    environment = os.environ | QUIET | {"YOLO_CONFIG_DIR": str(work)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("STEADY ")]
    if not lines:
        raise SystemExit(f"{name} timed no steps:\n{done.stdout[-4000:]}")
    return BATCH * steady / float(lines[-1][1])


def train_ultralytics(name: str, architecture: str, work: Path, steady: int) -> None:
    """What `yolo pose train` does, with a clock; ends itself after the last timed step."""
    import torch
    from ultralytics import YOLO

    is_tuned = name == "ultralytics_tuned"
    ends: list[float] = []

    def use_all_cores(trainer: Any) -> None:
        torch.set_num_threads(os.cpu_count() or 1)

    def tick(trainer: Any) -> None:
        ends.append(time.perf_counter())
        if len(ends) == WARM_UP + steady:
            print(f"\nSTEADY {ends[-1] - ends[-1 - steady]}", flush=True)
            os._exit(0)

    model = YOLO(f"{architecture}.yaml")
    if is_tuned:
        model.add_callback("on_train_start", use_all_cores)
    model.add_callback("on_train_batch_end", tick)
    model.train(
        data=str(work / "yolo" / DATA_YAML_KEY),
        device="cpu",
        imgsz=IMGSZ,
        batch=BATCH,
        epochs=EPOCHS,
        project=str(work / "runs"),
        name=f"{name}-{os.getpid()}",
        plots=False,
        val=False,
        deterministic=not is_tuned,
    )


def train_raypose(name: str, architecture: str, work: Path, steady: int) -> None:
    """What `raypose train` does: Ray and a worker on each core; stopped by SIGTERM after the last timed step."""
    import signal

    import raypose
    from raypose.config import load_config
    from raypose.errors import RunInterruptedError
    from raypose.telemetry import Event, StepsDone

    seconds: list[float] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepsDone):
            seconds.extend(event.step_seconds)
            if event.step == WARM_UP + steady:
                print(f"STEADY {sum(seconds[-steady:])}", flush=True)
                os.kill(os.getpid(), signal.SIGTERM)

    run = f"raypose-{os.getpid()}"
    config = load_config(None, [
        f"name={run}", f"storage={work / 'runs'}", f"model.architecture={architecture}", f"data.train={work / 'train'}",
        f"data.val={work / 'val'}", f"train.imgsz={IMGSZ}", f"train.batch={BATCH}", f"train.epochs={EPOCHS}",
        f"val.every_epochs={EPOCHS}", f"telemetry.log_every_steps={LOG_EVERY}", f"scaling.workers={os.cpu_count()}",
    ])  # fmt: skip
    try:
        raypose.train(config, report=watch)
    except RunInterruptedError:
        return


def summarize(runs: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    medians = {
        architecture: {name: statistics.median(values) for name, values in found.items()}
        for architecture, found in runs.items()
    }
    summary: dict[str, Any] = {"images_per_second": medians}
    for key, peer in (("ratio", "ultralytics"), ("ratio_tuned", "ultralytics_tuned")):
        ratios = {
            architecture: round(found["raypose"] / found[peer], 3)
            for architecture, found in medians.items()
            if {"raypose", peer} <= found.keys()
        }
        if ratios:
            summary |= {key: min(ratios.values()), f"{key}s": ratios}
    return summary


def settings(given: argparse.Namespace) -> dict[str, Any]:
    return {
        "imgsz": IMGSZ,
        "batch": BATCH,
        "warm_up_steps": WARM_UP,
        "steady_steps": given.steady,
        "repeats": given.repeats,
    }


if __name__ == "__main__":
    main()
