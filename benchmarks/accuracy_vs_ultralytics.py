"""Does raypose train models that are as accurate as Ultralytics trains them?

Both train yolo11n-pose with one recipe, the same images and three seeds, (a) on drawn people from scratch and (b) on
Leeds Sports Pose Extended from weights that Ultralytics trained on the drawn people of (a), relabelled with its 14
keypoints. One predictor and one COCO evaluator judge all `last.pt`. Each training that is done leaves a JSON file in
`--work` and is not repeated. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import raypose
from raypose.data.build import build_shard_set
from raypose.data.importers import LabelledSource, source_of
from raypose.data.importers.coco import read_coco
from raypose.data.shard_set import ShardSet
from raypose.data.synth import synthesize
from raypose.structures import COCO_PERSON, Sample

PROJECT = Path(__file__).resolve().parents[1]
ARCHITECTURE = "yolo11n-pose"
FRAMEWORKS = ("ultralytics", "raypose")
SEEDS = (0, 1, 2)

# Both frameworks call these by the same names.
TRAIN = {
    "batch": 32,
    "nbs": 32,
    "optimizer": "AdamW",
    "warmup_epochs": 1.0,
    "pose": 24.0,
    "imgsz": 128,
    "patience": 0,
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A data set with what is particular to training on it."""

    name: str
    epochs: int
    lr0: float
    augment: dict[str, float]
    pretrained: str | None = None

    @property
    def train(self) -> dict[str, Any]:
        return TRAIN | {"epochs": self.epochs, "lr0": self.lr0}


RECIPES = {
    # Small images and people who fill them: a mosaic would halve everybody, and there is little time to learn.
    "synth": Recipe("synth", 12, 0.004, {"mosaic": 0.0, "scale": 0.25, "close_mosaic": 0}),
    # Athletes lie, hang and stand on their heads: without rotation 640 images teach little.
    "lspet": Recipe(
        "lspet",
        80,
        0.002,
        {"mosaic": 0.0, "scale": 0.25, "degrees": 45.0, "close_mosaic": 0},
        pretrained="ultralytics/start-0",
    ),
}
START = Recipe("start", 12, 0.004, RECIPES["synth"].augment)
"""Weights for lspet to begin with: with 17 keypoints the head has other shapes and could not be taken over."""

LSP_NAMES = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
    "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """One training of one framework, and where it leaves its things."""

    work: Path
    recipe: Recipe
    framework: str
    seed: int
    folder: Path = field(init=False)
    result: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.work / self.framework / f"{self.recipe.name}-{self.seed}")
        object.__setattr__(
            self, "result", self.work / "results" / f"{self.recipe.name}-{self.framework}-{self.seed}.json"
        )

    @property
    def weights(self) -> Path:
        return self.folder / "weights" / "last.pt"

    def run(self) -> None:
        """Train, judge, and leave the result; what is already there is not done again."""
        if self.result.exists():
            return
        trained = self.folder / "trained.json"
        if not trained.exists():
            start = time.monotonic()
            print(f"{self.result.stem}: training, log in {self.folder}.log", flush=True)
            self._train()
            _write_json(trained, {"seconds": round(time.monotonic() - start)})
        data, imgsz = shards(self.work, self.recipe.name, "val"), TRAIN["imgsz"]
        metrics = raypose.validate(self.weights, data=str(data), imgsz=imgsz).metrics
        _write_json(self.result, {**json.loads(trained.read_text()), "metrics": metrics})
        print(f"{self.result.stem}: AP50 {metrics['pose_ap50']:.4f}", flush=True)

    def _train(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        command = _ultralytics_command(self) if self.framework == "ultralytics" else _raypose_command(self)
        with Path(f"{self.folder}.log").open("ab") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env=_environment(self.work))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.rename(path)


def _ultralytics_command(job: Job) -> list[str]:
    settings = (
        job.recipe.train
        | job.recipe.augment
        | {
            "seed": job.seed,
            "model": f"{ARCHITECTURE}.yaml",
            "data": job.work / "data" / job.recipe.name / "yolo" / "data.yaml",
            "project": job.folder.parent,
            "name": job.folder.name,
            "exist_ok": True,
            "device": "cpu",
            "workers": 0,
            "plots": False,
            "val": False,  # its own numbers are not COCO's; at the end it validates anyway
        }
    )
    if job.recipe.pretrained:
        settings["pretrained"] = job.work / job.recipe.pretrained / "weights" / "last.pt"
    return [_tool("yolo"), "pose", "train", *(f"{key}={value}" for key, value in settings.items())]


def _raypose_command(job: Job) -> list[str]:
    if (job.folder / "checkpoints").exists():
        return [_tool("raypose"), "train", "--resume", str(job.folder)]
    settings = {
        "name": job.folder.name,
        "storage": job.folder.parent,
        "model.architecture": ARCHITECTURE,
        "data.train": shards(job.work, job.recipe.name, "train"),
        "data.val": shards(job.work, job.recipe.name, "val"),
        "val.every_epochs": job.recipe.epochs,
        "train.seed": job.seed,
        "scaling.cpus_per_worker": 1,  # as many threads as Ultralytics takes of two cores
        **{f"train.{key}": value for key, value in job.recipe.train.items()},
        **{f"augment.{key}": value for key, value in job.recipe.augment.items()},
    }
    if job.recipe.pretrained:
        settings["model.pretrained"] = job.work / job.recipe.pretrained / "weights" / "last.pt"
    shutil.rmtree(job.folder, ignore_errors=True)  # an attempt that ended before its first checkpoint
    return [_tool("raypose"), "train", *(f"{key}={value}" for key, value in settings.items())]


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _environment(work: Path) -> dict[str, str]:
    """Offline, and with Ultralytics' settings file in the work folder instead of the home directory."""
    settings = work / "ultralytics-settings"
    settings.mkdir(parents=True, exist_ok=True)
    quiet = {"YOLO_OFFLINE": "true", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    return os.environ | quiet | {"YOLO_CONFIG_DIR": str(settings)}


# --- the same images for both: shards for raypose, and from them a YOLO folder for Ultralytics ---


def shards(work: Path, name: str, split: str) -> Path:
    return work / "data" / name / "shards" / split


def prepare(work: Path, name: str, lspet: Path) -> None:
    """Build a data set in both forms, unless it is there. `data.yaml` is written last."""
    yolo = work / "data" / name / "yolo"
    if (yolo / "data.yaml").exists():
        return
    for split, seed, count in (("train", 1, 1536), ("val", 2, 256)):
        out = str(shards(work, name, split))
        build_shard_set(_source(name, split, seed, count, lspet), out, overwrite=True)
        for sample in ShardSet.open(out):
            _write_yolo(sample, yolo, split)
    built = ShardSet.open(str(shards(work, name, "train")))
    description = {
        "path": str(yolo),
        "train": "images/train",
        "val": "images/val",
        "names": dict(enumerate(built.class_names)),
        "kpt_shape": [built.skeleton.keypoints, 3],
        "flip_idx": list(built.skeleton.flip_index),
        "kpt_oks_sigmas": list(built.skeleton.sigmas or ()),
    }
    (yolo / "data.yaml").write_text(yaml.safe_dump(description))


def _source(name: str, split: str, seed: int, count: int, lspet: Path) -> LabelledSource:
    if name == "synth":
        return source_of(synthesize(count, seed, 320), COCO_PERSON, ("person",))
    real = read_coco(lspet / "annotations" / f"{split}.json", lspet / split)
    if name == "start":
        return source_of(map(as_lsp, synthesize(count, seed, 320)), real.skeleton, real.class_names)
    return real


def as_lsp(sample: Sample) -> Sample:
    """A drawn sample with LSP's keypoints: the neck between the shoulders, the top of the head beyond the face."""
    people = sample.people
    keypoints_NK3 = np.zeros((len(people), len(LSP_NAMES), 3), np.float32)
    for place, name in enumerate(LSP_NAMES[:12]):
        keypoints_NK3[:, place] = people.keypoints_NK3[:, COCO_PERSON.names.index(name)]
    for person, coco_K3 in enumerate(people.keypoints_NK3):
        shoulder_23, face_K3 = coco_K3[5:7], coco_K3[:5][coco_K3[:5, 2] > 0]
        if (shoulder_23[:, 2] > 0).all():
            neck_2 = shoulder_23[:, :2].mean(axis=0)
            keypoints_NK3[person, 12] = *neck_2, shoulder_23[:, 2].min()
            if len(face_K3):
                keypoints_NK3[person, 13] = *(neck_2 + 1.7 * (face_K3[:, :2].mean(axis=0) - neck_2)), 2
    ignore_N = people.ignore_N | ~(keypoints_NK3[..., 2] > 0).any(axis=1)
    return replace(sample, people=replace(people, keypoints_NK3=keypoints_NK3, ignore_N=ignore_N))


def _write_yolo(sample: Sample, yolo: Path, split: str) -> None:
    name = sample.id.replace("/", "_").removesuffix(".jpg")
    for kind, suffix, content in (("images", "jpg", sample.image), ("labels", "txt", _yolo_lines(sample).encode())):
        path = yolo / kind / split / f"{name}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _yolo_lines(sample: Sample) -> str:
    """A line for each person who is not ignored: class, box centre and size, keypoints, all normalised."""
    people = sample.people.select(~sample.people.ignore_N)
    lines = []
    for index in range(len(people)):
        x1, y1, x2, y2 = people.box_xyxy_N4[index].tolist()
        numbers = [
            (x1 + x2) / 2 / sample.width,
            (y1 + y2) / 2 / sample.height,
            (x2 - x1) / sample.width,
            (y2 - y1) / sample.height,
        ]
        for x, y, visibility in people.keypoints_NK3[index].tolist():
            numbers += [x / sample.width, y / sample.height, visibility]
        lines.append(" ".join([str(people.class_N[index]), *(f"{number:.6f}" for number in numbers)]))
    return "\n".join(lines)


# --- all jobs, and what comes out ---


def jobs(work: Path, sets: list[str], frameworks: list[str]) -> Iterator[list[Job]]:
    """Groups that depend on each other in this order; the jobs of a group can run side by side."""
    for name in sets:
        if RECIPES[name].pretrained:
            yield [Job(work, START, "ultralytics", 0)]
        yield [Job(work, RECIPES[name], framework, seed) for framework in frameworks for seed in SEEDS]


def compare(work: Path) -> dict[str, Any]:
    """Median AP50 of both on each set; `ratio` is raypose's over Ultralytics' on the worse set, null while unknown."""
    found: dict[str, Any] = {}
    ratios = []
    for name, recipe in RECIPES.items():
        entry: dict[str, Any] = {"recipe": recipe.train | recipe.augment}
        for framework in FRAMEWORKS:
            results = [
                job.result for job in (Job(work, recipe, framework, seed) for seed in SEEDS) if job.result.exists()
            ]
            done = [json.loads(path.read_text()) for path in results]
            entry[framework] = {
                "ap50": [round(result["metrics"]["pose_ap50"], 4) for result in done],
                "ap": [round(result["metrics"]["pose_ap"], 4) for result in done],
                "seconds": [result["seconds"] for result in done],
            }
        medians = [statistics.median(entry[it]["ap50"]) for it in FRAMEWORKS if len(entry[it]["ap50"]) == len(SEEDS)]
        entry["ratio"] = round(medians[1] / medians[0], 4) if len(medians) == len(FRAMEWORKS) else None
        ratios.append(entry["ratio"])
        found[name] = entry
    return {"ratio": None if None in ratios else min(ratios), **found}


def record(comparison: dict[str, Any], work: Path) -> Path:
    """Keep a finished comparison in benchmarks/results/, with machine, date, versions and data."""
    manifests = {name: shards(work, name, "train") / "manifest.json" for name in RECIPES}
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cpu": _cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {name: version(name) for name in ("raypose", "ultralytics", "torch", "ray", "numpy")},
        "data_sha256": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in manifests.items()},
    }
    path = PROJECT / "benchmarks" / "results" / f"accuracy-{about['date']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about | comparison, indent=2) + "\n")
    return path


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=PROJECT / "runs" / "bench", help="data, runs and results")
    parser.add_argument(
        "--lspet", type=Path, default=PROJECT.parent / "shared" / "data" / "lspet", help="COCO JSON of LSPET"
    )
    parser.add_argument("--set", choices=RECIPES, help="only this data set")
    parser.add_argument("--only", choices=FRAMEWORKS, help="only this framework")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, each on one core")
    options = parser.parse_args()
    work = options.work.resolve()
    sets = [options.set] if options.set else list(RECIPES)
    for name in [*sets, START.name]:
        prepare(work, name, options.lspet)
    for group in jobs(work, sets, [options.only] if options.only else list(FRAMEWORKS)):
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(Job.run, group))
    comparison = compare(work)
    if comparison["ratio"] is not None:
        print(f"recorded in {record(comparison, work)}")
    print(json.dumps(comparison))


if __name__ == "__main__":
    main()
