"""`raypose val` against `yolo pose val` on a CPU: the same weights, the same drawn images at 640 px, both as commands.

Part of `evaluate.py`. Images are padded to a square, so that both contestants see 640 x 640 pixels and nothing else:
with other images Ultralytics pads its rectangles further than raypose does. Ultralytics runs without plots and with its
labels cached. Each command runs on a small set and on a large one, which holds the small one and more; what the large
one takes longer, for so many images more, is the throughput in the long run. Contestants alternate, medians count.

Seconds of all cores together are counted, too: on a busy machine they say more than the clock, but not who leaves cores
idle.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from raypose.data.build import build_shard_set
from raypose.data.exporters.yolo import export_yolo
from raypose.data.importers import source_of
from raypose.data.shard_set import ShardSet
from raypose.data.synth import synthesize
from raypose.structures import COCO_PERSON, Sample
from raypose.vision.decode import decode_rgb
from raypose.vision.draw import encode_jpeg
from raypose.vision.geometry import PAD_VALUE

IMGSZ = 640
_BIN = Path(sys.executable).parent
# The rest of evaluate.py computes on one thread; these commands take what they take.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | {
    "YOLO_OFFLINE": "true",
    "RAY_AUTH_MODE": "disabled",
}


@dataclass(frozen=True, slots=True)
class Seconds:
    """What a command took."""

    clock_s: float
    cores_s: float

    def __str__(self) -> str:
        return f"{self.clock_s:7.1f} s, {self.cores_s:7.1f} s of cores"


def compare_val(work: Path, weights: Path | None, *, small: int, large: int, repeats: int) -> dict[str, Any]:
    """Figures for the last line. `weights` None trains a model for a minute, which finds people well enough."""
    sets = {count: _draw(work / f"val-{count}", count, seed=2) for count in (small, large)}
    weights = weights or _train(work)
    commands = {
        "raypose": ["raypose", "val", str(weights), "--device", "cpu"],
        "raypose_float32": ["raypose", "val", str(weights), "--device", "cpu", "--precision", "float32"],
        "ultralytics": ["yolo", "pose", "val", f"model={weights}", "device=cpu", "plots=False", "rect=False"],
    }
    seconds: dict[tuple[str, int], list[Seconds]] = {}
    for repeat in range(repeats + 1):  # the first one warms the caches up, Ultralytics' own included
        for count, folder in sets.items():
            for name, command in commands.items():
                taken = _seconds_of([*command, *_arguments(name, folder, work)])
                if repeat:
                    seconds.setdefault((name, count), []).append(taken)
                print(f"{'' if repeat else 'warm-up  '}{name:<16} {count:5} images {taken}", flush=True)
    return _figures(commands, seconds, small=small, large=large)


def _figures(
    names: Mapping[str, object], seconds: Mapping[tuple[str, int], Sequence[Seconds]], *, small: int, large: int
) -> dict[str, Any]:
    whole_s = {key: statistics.median(taken.clock_s for taken in all_taken) for key, all_taken in seconds.items()}
    cores_s = {key: statistics.median(taken.cores_s for taken in all_taken) for key, all_taken in seconds.items()}
    for name in names:
        if whole_s[name, large] <= whole_s[name, small]:
            raise RuntimeError(
                f"{name}: {large} images took no longer than {small}; the machine is too busy to measure"
            )
    per_s = {name: (large - small) / (whole_s[name, large] - whole_s[name, small]) for name in names}
    more_cores_s = {name: cores_s[name, large] - cores_s[name, small] for name in names}
    return {
        **{f"val_images_per_second_{name}": round(value, 2) for name, value in per_s.items()},
        **{f"val_seconds_{name}": round(whole_s[name, large], 2) for name in names},
        "ratio_val": round(per_s["raypose"] / per_s["ultralytics"], 2),
        "ratio_val_float32": round(per_s["raypose_float32"] / per_s["ultralytics"], 2),
        "ratio_val_cores": round(more_cores_s["ultralytics"] / more_cores_s["raypose"], 2),
        "ratio_val_whole_command": round(whole_s["ultralytics", large] / whole_s["raypose", large], 2),
    }


def _arguments(name: str, folder: Path, work: Path) -> list[str]:
    if name == "ultralytics":
        return [f"data={folder}/yolo/data.yaml", f"imgsz={IMGSZ}", "batch=16", f"project={work}/yolo", "exist_ok=True"]
    return ["--data", str(folder / "shards"), "--imgsz", str(IMGSZ), "--batch", "16", "--json"]


def _draw(folder: Path, count: int, *, seed: int, size_px: int = IMGSZ) -> Path:
    """The same people as a shard set and as a YOLO folder."""
    if not (folder / "yolo" / "data.yaml").exists():
        samples = map(_squared, synthesize(count, seed, size_px))
        build_shard_set(source_of(samples, COCO_PERSON, ("person",)), str(folder / "shards"))
        export_yolo(ShardSet.open(str(folder / "shards")), str(folder / "yolo"))
    return folder


def _squared(sample: Sample) -> Sample:
    """Grey below and to the right, where it moves no label."""
    image = decode_rgb(sample.image, sample.id)
    side = max(sample.width, sample.height)
    canvas = np.full((side, side, 3), PAD_VALUE, np.uint8)
    canvas[: sample.height, : sample.width] = image
    return replace(sample, image=encode_jpeg(canvas), width=side, height=side)


def _train(work: Path) -> Path:
    weights = work / "runs" / "short" / "weights" / "best.pt"
    if not weights.exists():
        sets = [
            _draw(work / name, count, seed=seed, size_px=160) for name, count, seed in (("t", 512, 1), ("v", 32, 3))
        ]
        settings = [
            f"data.train={sets[0]}/shards", f"data.val={sets[1]}/shards", f"storage={work}/runs", "name=short",
            "train.epochs=8", "train.batch=32", "train.nbs=32", "train.imgsz=160", "train.optimizer=AdamW",
            "train.lr0=0.004", "train.warmup_epochs=1", "augment.mosaic=0", "val.every_epochs=8",
        ]  # fmt: skip
        _seconds_of(["raypose", "train", *settings])
    return weights


def _seconds_of(command: Sequence[str]) -> Seconds:
    begin, cores_before_s = time.perf_counter(), _cores_of_children_s()
    done = subprocess.run(
        [str(_BIN / command[0]), *command[1:]], env=_ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return Seconds(time.perf_counter() - begin, _cores_of_children_s() - cores_before_s)


def _cores_of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
