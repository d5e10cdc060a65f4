"""A population against random search, with real trainings whose learning rate is up to a hundred times too small.

    python -m benchmarks.tune_population --work /tmp/tune-population

Half of the rates that are drawn are more than ten times too small to learn anything in so short a run. Both ways have
as many members, epochs and first settings for each seed; the population may change its rates while it trains. Trials
are real runs of a small data set, one after the other in this process and without Ray, so that a start costs little.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from raypose.config import RunConfig, dump_config, load_config
from raypose.data.build import build_shard_set
from raypose.data.importers import source_of
from raypose.data.synth import synthesize
from raypose.engine.loop import run
from raypose.engine.setup import prepare
from raypose.engine.world import World
from raypose.errors import RunInterruptedError
from raypose.storage import open_store
from raypose.structures import COCO_PERSON
from raypose.telemetry import fan_out
from raypose.telemetry.logbook import Logbook
from raypose.tune.checks import Sweep
from raypose.tune.controller import Controller
from raypose.tune.records import SweepState, Trial
from raypose.tune.schema import SweepConfig
from raypose.tune.trials import Ended, Stop, Tell

BEST_LR0 = 0.004
LEAST_WINS = 4


@dataclass(frozen=True)
class LocalTrials:
    """A TrialRunner that has trained when `start` returns."""

    def start(self, config: RunConfig, *, resume: bool, until_epoch: int | None, tell: Tell) -> Stop:
        store = open_store(config.storage).child(config.name)
        if not resume:
            store.write("config.yaml", dump_config(config).encode())
        parts = prepare(config, World(), store, tell)
        with Logbook(store, start_step=parts.progress.step, tensorboard=False) as logbook:
            try:
                summary = run(parts, fan_out(logbook, tell), until_epoch=until_epoch)
            except RunInterruptedError:
                tell(Ended())
            else:
                tell(Ended(summary))
        return lambda: None


def main() -> None:
    arguments = parse()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", arguments.images, 1), ("val", 64, 2)):
        build_shard_set(source_of(synthesize(count, seed, 96), COCO_PERSON, ("person",)), str(arguments.work / name))
    start = time.monotonic()
    seeds = [compare(arguments.work, seed, arguments.members, arguments.epochs) for seed in range(arguments.seeds)]
    wins = sum(one["pbt"] > one["random"] for one in seeds)
    needed = math.ceil(LEAST_WINS / 5 * len(seeds))
    result = {
        "benchmark": "tune_population",
        "metric": "mean box_ap50 of the final members",
        "seeds": seeds,
        "wins": wins,
        "needed": needed,
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(result))
    sys.exit(0 if wins >= needed else 1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder for data and runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=256)
    return parser.parse_args()


def compare(work: Path, seed: int, members: int, epochs: int) -> dict[str, float]:
    """Mean of the last values of both ways, and of the best of them."""
    found: dict[str, float] = {"seed": seed}
    for use in ("random", "pbt"):
        values = [trial.measured[-1].value for trial in trained(work, use, seed, members, epochs)]
        found |= {use: round(fmean(values), 4), f"best_{use}": round(max(values), 4)}
    print(json.dumps(found), flush=True)
    return found


def trained(work: Path, use: str, seed: int, members: int, epochs: int) -> Sequence[Trial]:
    folder = work / f"{use}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    every = max(1, epochs // 4)
    base = load_config(
        None,
        [
            f"data.train={work}/train", f"data.val={work}/val", f"train.epochs={epochs}", "train.batch=16",
            "train.imgsz=96", "train.nbs=16", "train.optimizer=AdamW", "train.warmup_epochs=1", "augment.mosaic=0",
            "augment.scale=0.1", f"val.every_epochs={every}", "val.pictures=0", "val.training_images=0",
            "telemetry.tensorboard=false", f"train.seed={seed}",
        ],
    )  # fmt: skip
    values = {
        "name": folder.name,
        "storage": str(work),
        "base": "base.yaml",
        "space": {"train.lr0": {"loguniform": [BEST_LR0 / 100, BEST_LR0]}},
        "metric": "box_ap50",
        "scheduler": {"use": "pbt", "every_epochs": every} if use == "pbt" else {},
        "budget": {"trials": members},
        "seed": seed,
    }
    sweep = Sweep(SweepConfig.model_validate(values), base)
    return Controller(sweep, open_store(str(folder)), LocalTrials(), slots=1, state=SweepState()).run()[1]


if __name__ == "__main__":
    main()
