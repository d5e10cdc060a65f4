"""A program that trains on nothing: it takes batches from loader processes or threads and then does one deed.

    python loader_program.py SHARDS KIND DEED

Prints the pids of its children as JSON once batches come, and a line for what happened.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import closing

import psutil

from raypose.config.schema import AugmentConfig
from raypose.data.loader import TrainLoader
from raypose.data.plan import Plan
from raypose.data.shard_set import ShardSet
from raypose.errors import RayposeError


def loader_pids() -> list[int]:
    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if "resource_tracker" not in " ".join(child.cmdline())]


def main(url: str, kind: str, deed: str) -> None:
    shards = ShardSet.open(url)
    plan = Plan(shards.shard_sizes, seed=0, batch=4, lanes=1, window=64)
    loader = TrainLoader(
        shards,
        plan,
        [0],
        AugmentConfig(close_mosaic=0),
        imgsz=64,
        seed=0,
        epochs=1000,
        start_step=0,
        end_step=1000,
        loader_workers=2,
        kind=kind,  # type: ignore[arg-type]
    )
    try:
        with closing(iter(loader)) as batches:  # type: ignore[type-var]
            next(batches)
            print(json.dumps(loader_pids()), flush=True)
            match deed:
                case "raise":
                    raise ValueError("the consumer failed")
                case "wait":
                    time.sleep(600)
                case "keep-taking":
                    for _ in batches:
                        pass
                case "fork":  # a child that holds everything the parent had open, but does not read from it
                    if os.fork() == 0:
                        time.sleep(600)
                    time.sleep(600)
                case "lose-one":
                    os.kill(loader_pids()[0], signal.SIGKILL)
                    for _ in batches:
                        pass
    except (ValueError, RayposeError) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("raypose")]
    print(json.dumps([loader_pids(), threads]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
