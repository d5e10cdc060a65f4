"""How many images a second does one GPU train, and does the input side hold it up?

    .venv/bin/python -m benchmarks.engine_gpu [--architectures yolo11n-pose yolo11s-pose yolo11m-pose] [--repeats 5]

Drawn people at 640 px, mosaic and all augmentation, batch 64, without Ray. `raypose` decodes and augments on the GPU
(`train.device_augment`), `raypose_processes` in loader processes, `ready` is the same engine on one batch that lies on
the GPU already: what it could do if data cost nothing. `ultralytics` trains the same images as it does by default, at
the best of several worker counts. `ratio` is raypose, in its faster way, over Ultralytics; `ratio_ready` is raypose
over `ready`; medians of the repeats, contestants in turns, each a process of its own. `--device cpu --imgsz 64`
proves nothing but the script. The last line is JSON, and the whole result is a dated file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, ROOT, machine, record
from benchmarks.train_cpu import QUIET
from raypose.config import RunConfig, load_config
from raypose.data.exporters.yolo import DATA_YAML_KEY, export_yolo
from raypose.data.shard_set import ShardSet
from tests.data_sets import build_synthetic

ARCHITECTURES = ("yolo11n-pose", "yolo11s-pose", "yolo11m-pose")
RAYPOSE_WAYS = ("raypose", "raypose_processes", "ready")
WORKERS_OF_ULTRALYTICS = (4, 8, 16)
CONTESTANTS = (*RAYPOSE_WAYS, *(f"ultralytics_{workers}" for workers in WORKERS_OF_ULTRALYTICS))
WARM_UP = 10
SETTINGS = ("device", "imgsz", "batch", "steady", "images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steady", type=int, default=30, help="timed steps")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--contestant", nargs=3, metavar=("NAME", "ARCHITECTURE", "WORK"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contestant:
        name, architecture, work = given.contestant
        train = train_ultralytics if name.startswith("ultralytics") else train_raypose
        print(f"STEADY {train(name, architecture, Path(work), given)}", flush=True)
        os._exit(0)  # loader workers end with their pipes
    at_start = {**machine(), "device": device_name(given.device)}
    with tempfile.TemporaryDirectory(prefix="raypose-engine-") as folder:
        work = Path(folder)
        build_synthetic(work, train=given.images, val=8, size_px=given.imgsz, shard_bytes=2**26)
        export_yolo(ShardSet.open(str(work / "train")), str(work / "yolo"), val=ShardSet.open(str(work / "val")))
        runs = {architecture: measure(work, architecture, given) for architecture in given.architectures}
    summary = summarize(runs)
    if given.device.startswith("cuda"):
        settings = {key: getattr(given, key) for key in (*SETTINGS, "repeats")}
        record("engine_gpu", {"machine": at_start, "settings": settings, **summary, "runs": runs}, given.results)
    print(json.dumps(summary))


def device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def measure(work: Path, architecture: str, given: argparse.Namespace) -> dict[str, list[float]]:
    """Images a second of each contestant, once for each repeat."""
    found: dict[str, list[float]] = {name: [] for name in given.only}
    for repeat in range(given.repeats):
        for name in given.only:
            found[name].append(round(train_once(work, architecture, name, given), 1))
            print(f"{repeat + 1} {architecture} {name:18} {found[name][-1]:8.1f} images/s", flush=True)
    return found


def train_once(work: Path, architecture: str, name: str, given: argparse.Namespace) -> float:
    options = itertools.chain.from_iterable((f"--{key}", str(getattr(given, key))) for key in SETTINGS)
    command = [sys.executable, "-m", "benchmarks.engine_gpu", *options, "--contestant", name, architecture, str(work)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | QUIET | {"YOLO_CONFIG_DIR": str(work)}, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("STEADY ")]
    if not lines:
        raise SystemExit(f"{name} timed no steps:\n{done.stdout[-4000:]}")
    return given.batch * given.steady / float(lines[-1][1])


def train_raypose(name: str, architecture: str, work: Path, given: argparse.Namespace) -> float:
    """Seconds of the timed steps of the bare engine."""
    from raypose.engine.setup import prepare
    from raypose.engine.world import World
    from raypose.storage import open_store

    config = run_config(name, architecture, work, given)
    parts = prepare(config, World(device=given.device), open_store(config.storage).child(config.name), print)
    batches: Iterator[Any] = iter(parts.feed(0))
    if name == "ready":
        batches = itertools.repeat(next(batches))
    updates, began_s = 0, 0.0
    for step in range(WARM_UP + given.steady):
        if step == WARM_UP:
            began_s = now_s(given.device)
        result = parts.train_step(step, next(batches), updates)
        updates += result.gradient_norm is not None
    return now_s(given.device) - began_s


def run_config(name: str, architecture: str, work: Path, given: argparse.Namespace) -> RunConfig:
    on_device = "false" if name == "raypose_processes" else "true"
    return load_config(None, [
        f"name={name}-{os.getpid()}", f"storage={work / 'runs'}", f"model.architecture={architecture}",
        f"data.train={work / 'train'}", f"data.val={work / 'val'}", f"train.imgsz={given.imgsz}",
        f"train.batch={given.batch}", "train.epochs=100", f"train.device_augment={on_device}",
        f"data.loader_workers={max((os.cpu_count() or 1) - 1, 1)}", "data.loader=processes",
        "train.deterministic=false",
    ])  # fmt: skip


def train_ultralytics(name: str, architecture: str, work: Path, given: argparse.Namespace) -> float:
    """The same of Ultralytics, with all its defaults but what both are given."""
    from ultralytics import YOLO

    ends: list[float] = []

    class Timed(Exception):  # noqa: N818
        """Enough steps."""

    def tick(_: Any) -> None:
        if len(ends) in (WARM_UP - 1, WARM_UP + given.steady - 1):
            ends.append(now_s(given.device))
        else:
            ends.append(0.0)
        if len(ends) == WARM_UP + given.steady:
            raise Timed

    model = YOLO(f"{architecture}.yaml")
    model.add_callback("on_train_batch_end", tick)
    try:
        model.train(
            data=str(work / "yolo" / DATA_YAML_KEY), device=given.device.removeprefix("cuda:"), imgsz=given.imgsz,
            batch=given.batch, epochs=100, workers=int(name.rpartition("_")[2]), plots=False, val=False,
            deterministic=False, amp=given.device != "cpu", project=str(work / "runs"), name=f"{name}-{os.getpid()}",
        )  # fmt: skip
    except Timed:
        return ends[-1] - ends[WARM_UP - 1]
    raise SystemExit("the run ended by itself; it needs more --images or fewer --steady")


def now_s(device: str) -> float:
    """The time once the device has done all it was told."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def summarize(runs: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    medians = {
        architecture: {name: statistics.median(values) for name, values in found.items()}
        for architecture, found in runs.items()
    }
    summary: dict[str, Any] = {"images_per_second": medians}
    for architecture, found in medians.items():
        raypose = max((found[name] for name in RAYPOSE_WAYS[:2] if name in found), default=0.0)
        peers = [speed for name, speed in found.items() if name.startswith("ultralytics")]
        if raypose and peers:
            summary.setdefault("ratio", {})[architecture] = round(raypose / max(peers), 3)
        if raypose and "ready" in found:
            summary.setdefault("ratio_ready", {})[architecture] = round(raypose / found["ready"], 3)
    return summary


if __name__ == "__main__":
    main()
