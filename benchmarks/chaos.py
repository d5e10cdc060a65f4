"""A hundred random faults in one run: does it end by itself, with the bits of the run that nothing befell?

    .venv/bin/python -m benchmarks.chaos [--faults 100] [--seed 0]

Two workers on a cluster of two nodes on this machine train on drawn people from an S3 server and save to it, every four
steps. Whenever there is a new checkpoint, after a random pause, one of these happens: a worker is killed (SIGKILL); the
node of one is lost without a word, and another one comes; the server refuses everything for some seconds; or it is
slow for some. `same` says that the last checkpoint has every bit of an undisturbed run's, and the same metrics. The
last line is JSON; the whole result is a dated file with every fault.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from ray.cluster_utils import Cluster

import raypose
from benchmarks.object_store import s3_server, upload_sets
from benchmarks.record import RESULTS, machine, record
from benchmarks.recovery import add_node, kill_a_worker, two_nodes
from benchmarks.train_cpu import QUIET
from raypose.checkpoint import CheckpointStore, Snapshot
from raypose.config import RunConfig
from raypose.config.s3_url import S3Location
from raypose.storage import open_store
from raypose.telemetry import CheckpointSaved, Event, RunStarted, StepsDone
from tests.data_sets import build_synthetic, tiny_run
from tests.s3.faulty_proxy import Fault, FaultyProxy, nothing, proxy_to
from tests.s3.servers import SERVER_ENVIRONMENT

BUCKET = "chaos"
EVERY_STEPS = 4
STEPS_FOR_A_FAULT = 7
BATCH = 8
KINDS = {"worker killed": 60, "node lost": 8, "store refuses": 16, "store slow": 16}
"""Of a hundred faults."""


@dataclass
class Chaos:
    """A reporter that does the next bad thing whenever the run has saved anew."""

    cluster: Cluster
    second: Any
    proxy: FaultyProxy
    wanted: int
    random: random.Random
    done: list[tuple[str, int]] = field(default_factory=list)
    """What was done, and after which step."""
    starts: list[int] = field(default_factory=list)
    steps_redone: int = 0
    step: int = 0
    saved_step: int = 0
    busy: threading.Event = field(default_factory=threading.Event)

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.steps_redone += max(self.step - event.start_step, 0)
            self.starts.append(event.start_step)
        elif isinstance(event, StepsDone):
            self.step = event.step
        elif isinstance(event, CheckpointSaved):
            is_new, self.saved_step = event.step > self.saved_step, max(event.step, self.saved_step)
            if is_new and len(self.done) < self.wanted and not self.busy.is_set():
                self.busy.set()
                (kind,) = self.random.choices(list(KINDS), list(KINDS.values()))
                self.done.append((kind, self.step))
                print(f"{len(self.done):3} after step {self.step:4}: {kind}", flush=True)
                pause_s = self.random.uniform(0.0, 1.5)
                if kind == "node lost":
                    self._do(kind, pause_s)  # Ray lets only the main thread start a node
                else:
                    threading.Thread(target=self._do, args=(kind, pause_s), daemon=True).start()

    def _do(self, kind: str, pause_s: float) -> None:
        time.sleep(pause_s)
        if kind == "worker killed":
            kill_a_worker(self.random)
        elif kind == "node lost":
            self.cluster.remove_node(self.second, allow_graceful=False)
            time.sleep(3)
            self.second = add_node(self.cluster)
        else:
            fault, seconds = (Fault.REFUSED, 8) if kind == "store refuses" else (Fault.SLOW, 5)
            self.proxy.choose = lambda _: fault
            time.sleep(seconds)
            self.proxy.choose = nothing
        self.busy.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    os.environ.update(SERVER_ENVIRONMENT | QUIET | {"RAY_TRAIN_V2_ENABLED": "1"})
    at_start = machine()
    with tempfile.TemporaryDirectory(prefix="raypose-chaos-") as folder:
        work = Path(folder)
        data = build_synthetic(work / "data", train=128, val=16, shard_bytes=32 * 1024)
        with s3_server(work / "server") as (server, endpoint), proxy_to(endpoint) as proxy:
            upload_sets(data, endpoint, BUCKET)
            undisturbed = snapshot_of(train(run_config(work, "undisturbed", endpoint, given.faults)))
            began_s = time.monotonic()
            chaos, config = disturbed(work, proxy, given)
            seconds = time.monotonic() - began_s
            found = snapshot_of(config)
    summary = {
        "faults": len(chaos.done),
        "same": same(found, undisturbed),
        "kinds": dict(Counter(kind for kind, _ in chaos.done)),
        "starts": len(chaos.starts),
        "steps": found.progress.step,
        "steps_redone": chaos.steps_redone,
        "seconds": round(seconds),
    }
    settings = {"seed": given.seed, "checkpoint_every_steps": EVERY_STEPS, "server": server}
    details = {"done": chaos.done, "metrics": dict(found.metrics)}
    record("chaos", {"machine": at_start, "settings": settings, **summary, **details}, given.results)
    print(json.dumps(summary))


def disturbed(work: Path, proxy: FaultyProxy, given: argparse.Namespace) -> tuple[Chaos, RunConfig]:
    with two_nodes() as (cluster, second):
        chaos = Chaos(cluster, second, proxy, given.faults, random.Random(given.seed))
        config = run_config(work, "disturbed", proxy.endpoint, given.faults)
        train(config, chaos)
        return chaos, config


def train(config: RunConfig, report: Any = None) -> RunConfig:
    raypose.train(config, report=report)
    return config


def run_config(work: Path, name: str, endpoint: str, faults: int) -> RunConfig:
    """Long enough that every fault comes after a checkpoint of its own."""
    steps = max(faults * STEPS_FOR_A_FAULT, 32)
    train_set, val_set, runs = (S3Location(BUCKET, key, endpoint_url=endpoint).url for key in ("train", "val", "runs"))
    return tiny_run(
        Path("unused"), Path("unused"), f"data.train={train_set}", f"data.val={val_set}", f"storage={runs}",
        f"name={name}", f"data.cache_dir={work / name}", "scaling.workers=2", "scaling.cpus_per_worker=1",
        f"scaling.max_failures={10**6}", f"train.batch={BATCH}", f"train.epochs={-(-steps * BATCH // 128)}",
        "val.every_epochs=8", f"checkpoint.every_steps={EVERY_STEPS}", "checkpoint.every_epochs=1000",
        "telemetry.log_every_steps=1",
    )  # fmt: skip


def snapshot_of(config: RunConfig) -> Snapshot:
    store = open_store(config.storage).child(config.name)
    snapshot = CheckpointStore(store).load_latest(lambda text: print(text, flush=True))
    assert snapshot is not None
    return snapshot


def same(found: Snapshot, expected: Snapshot) -> bool:
    progress = [asdict(one.progress) for one in (found, expected)]
    for one in progress:
        one.pop("wall_seconds")
        one.pop("train_seconds")
    return (
        progress[0] == progress[1]
        and repr(sorted(found.metrics.items())) == repr(sorted(expected.metrics.items()))
        and found.tensors.keys() == expected.tensors.keys()
        and all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())
    )


if __name__ == "__main__":
    main()
