"""What a sweep costs beyond its trials: its wall time against those of the same runs, each trained alone.

    python -m benchmarks.tune_overhead --work /tmp/tune-overhead

Both have the same workers on the same machine, one run at a time, and start from the command line. What a sweep saves,
starting Ray once for all trials, is part of the figure, which may be negative. The last line is JSON; the result is
recorded in results/. Nothing else should run meanwhile; it takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

from benchmarks.record import RESULTS, machine, record
from raypose.config import dump_config, load_config
from raypose.data.build import build_shard_set
from raypose.data.importers import source_of
from raypose.data.synth import synthesize
from raypose.structures import COCO_PERSON

MOST_OVERHEAD = 0.15
LEAST_TRIAL_S = 60.0
IMAGES = 256
_ENVIRONMENT = os.environ | {"YOLO_OFFLINE": "true", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


def main() -> None:
    arguments = parse()
    work = arguments.work.absolute()
    for folder in ("runs", "train", "val"):
        shutil.rmtree(work / folder, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    at_start = machine()
    write_files(work, arguments.trials, arguments.epochs)
    sweep_s = timed(["tune", "sweep.yaml"], work)
    trials_s = [float(row["seconds"]) for row in csv.DictReader((work / "runs/sweep/trials.csv").open())]
    alone_s = [
        timed(["train", f"runs/sweep/trials/{number:04d}/config.yaml", f"name=alone-{number}", "storage=runs"], work)
        for number in range(arguments.trials)
    ]
    overhead = sweep_s / sum(alone_s) - 1.0
    result = {
        "benchmark": "tune_overhead",
        "sweep_seconds": round(sweep_s, 1),
        "alone_seconds": [round(seconds, 1) for seconds in alone_s],
        "overhead": round(overhead, 4),
        "limit": MOST_OVERHEAD,
        "trial_seconds": trials_s,
        "trials_long_enough": min(trials_s) >= LEAST_TRIAL_S,
    }
    settings = {"trials": arguments.trials, "epochs": arguments.epochs, "images": IMAGES, "workers": 2}
    record("tune_overhead", {"machine": at_start, "settings": settings, **result}, arguments.results)
    print(json.dumps(result))
    sys.exit(0 if overhead <= MOST_OVERHEAD and min(trials_s) >= LEAST_TRIAL_S else 1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="a folder for data and runs, which are replaced")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=36, help="of each trial; enough for 60 s")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def write_files(work: Path, trials: int, epochs: int) -> None:
    for name, count, seed in (("train", IMAGES, 1), ("val", 32, 2)):
        build_shard_set(source_of(synthesize(count, seed, 160), COCO_PERSON, ("person",)), str(work / name))
    base = load_config(
        None,
        [
            f"data.train={work}/train", f"data.val={work}/val", f"train.epochs={epochs}", "train.batch=32",
            "train.imgsz=128", "train.optimizer=AdamW", "train.nbs=32", "scaling.workers=2", "val.pictures=0",
            "scaling.cpus_per_worker=1", "val.every_epochs=12",
        ],
    )  # fmt: skip
    (work / "base.yaml").write_text(dump_config(base))
    sweep = {
        "name": "sweep",
        "storage": "runs",
        "base": "base.yaml",
        "space": {"train.lr0": {"loguniform": [1e-4, 1e-2]}},
        "budget": {"trials": trials},
        "concurrency": 1,
    }
    (work / "sweep.yaml").write_text(yaml.safe_dump(sweep))


def timed(arguments: list[str], work: Path) -> float:
    """Seconds of a `raypose` command, which has to succeed."""
    start = time.monotonic()
    command = [sys.executable, "-c", "from raypose.cli import main; main()", *arguments]
    done = subprocess.run(command, cwd=work, env=_ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"raypose {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.monotonic() - start


if __name__ == "__main__":
    main()
