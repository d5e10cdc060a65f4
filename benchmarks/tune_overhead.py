"""What a sweep costs beyond its trials: its wall time against those of the same runs, each trained alone.

    python -m benchmarks.tune_overhead --work /tmp/tune-overhead

Both have the same workers on the same machine, one run at a time, and start from the command line. The last line is
JSON. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from raypose.config import dump_config, load_config
from raypose.data.build import build_shard_set
from raypose.data.importers import source_of
from raypose.data.synth import synthesize
from raypose.structures import COCO_PERSON

MOST_OVERHEAD = 0.15
LEAST_TRIAL_S = 60.0


def main() -> None:
    arguments = parse()
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("YOLO_OFFLINE", "true")
    write_files(arguments.work, arguments.trials, arguments.epochs)
    sweep_s = timed(["tune", "sweep.yaml"], arguments.work)
    alone_s = [
        timed(
            ["train", f"runs/sweep/trials/{number:04d}/config.yaml", f"name=alone-{number}", "storage=runs"],
            arguments.work,
        )
        for number in range(arguments.trials)
    ]
    overhead = sweep_s / sum(alone_s) - 1.0
    result = {
        "benchmark": "tune_overhead",
        "sweep_seconds": round(sweep_s, 1),
        "alone_seconds": [round(seconds, 1) for seconds in alone_s],
        "overhead": round(overhead, 4),
        "limit": MOST_OVERHEAD,
        "trials_long_enough": min(alone_s) >= LEAST_TRIAL_S,
    }
    print(json.dumps(result))
    sys.exit(0 if overhead <= MOST_OVERHEAD and min(alone_s) >= LEAST_TRIAL_S else 1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder for data and runs")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=12, help="of each trial; enough for 60 s")
    return parser.parse_args()


def write_files(work: Path, trials: int, epochs: int) -> None:
    for name, count, seed in (("train", 256, 1), ("val", 32, 2)):
        build_shard_set(source_of(synthesize(count, seed, 160), COCO_PERSON, ("person",)), str(work / name))
    base = load_config(
        None,
        [
            f"data.train={work}/train", f"data.val={work}/val", f"train.epochs={epochs}", "train.batch=32",
            "train.imgsz=128", "train.optimizer=AdamW", "train.nbs=32", "scaling.workers=2", "val.pictures=0",
            "scaling.cpus_per_worker=1",
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
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"raypose {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.monotonic() - start


if __name__ == "__main__":
    main()
