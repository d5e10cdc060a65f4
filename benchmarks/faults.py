"""What becomes of `raypose train` from a Ceph gateway, two workers, while one thing after another goes wrong.

    .venv/bin/python -m benchmarks.faults --out benchmarks/results

Each row is a run by the command line with the same seed as the undisturbed one from local folders. A run that ends
with an error is resumed once its cause is gone. `same` says that the last checkpoint has the undisturbed run's bits.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch

from benchmarks.object_store import upload_sets
from raypose.checkpoint import CheckpointStore
from raypose.config import dump_config
from raypose.config.s3_url import S3Location
from raypose.data.manifest import read_manifest
from raypose.storage import open_store
from tests.data_sets import build_synthetic, tiny_run
from tests.s3.conftest import below
from tests.s3.downloads import kill_who_downloads
from tests.s3.faulty_proxy import Choice, Fault, Request, proxy_to, some_of_all
from tests.s3.servers import SERVER_ENVIRONMENT, Gateway, ceph_gateway

RAYPOSE = Path(sys.executable).with_name("raypose")
BUCKET = "faults"
STEPS = 64
CACHE_BYTES = 400_000
"""A third of the training set."""
ENVIRONMENT = {**SERVER_ENVIRONMENT, "RAY_AUTH_MODE": "disabled", "YOLO_OFFLINE": "true"}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    exit_code: int
    seconds: float
    line: str


@dataclass(frozen=True, slots=True)
class Row:
    """What was done to a run, and what became of it."""

    fault: str
    injected: str
    exit_code: int
    seconds: float
    line: str
    """The error, where there was one."""
    resumed_exit_code: int | None
    same: bool


@dataclass(frozen=True)
class Bench:
    """A gateway that holds the data, and the undisturbed run to compare with."""

    gateway: Gateway
    work: Path
    expected: Mapping[str, torch.Tensor]

    def place(self, key: str, endpoint: str | None = None, **options: object) -> str:
        return below(S3Location(BUCKET).url, key, endpoint_url=endpoint or self.gateway.endpoint, **options)

    def cache(self, name: str) -> Path:
        return self.work / name / "cache"

    def start(self, name: str, *overrides: str, endpoint: str | None = None, **options: object) -> Running:
        train, val, runs = (self.place(key, endpoint, **options) for key in ("train", "val", "runs"))
        return Running(self.work, self.place(f"runs/{name}"), _written(
            self.work / name, f"name={name}", f"data.train={train}", f"data.val={val}", f"storage={runs}",
            f"data.cache_dir={self.cache(name)}", f"data.cache_bytes={CACHE_BYTES}", *overrides,
        ))  # fmt: skip

    def row(self, fault: str, injected: str, running: Running, ended: Ended, resumed: Ended | None = None) -> Row:
        row = Row(
            fault, injected, ended.exit_code, round(ended.seconds, 1), ended.line if ended.exit_code else "",
            resumed.exit_code if resumed else None, _same(_newest(running.run), self.expected),
        )  # fmt: skip
        print(row, flush=True)
        return row


class Running:
    """`raypose train` in a process of its own."""

    def __init__(self, work: Path, run: str, config: Path) -> None:
        self.run = run
        self._log = config.with_suffix(".log")
        self._command(["train", str(config)])

    def wait_for_step(self, step: int) -> None:
        """Until a checkpoint of this step or a later one is there."""
        checkpoints = CheckpointStore(open_store(self.run))
        while self.process.poll() is None and not any(saved.step >= step for saved in checkpoints.saved()):
            time.sleep(0.2)

    def end(self) -> Ended:
        exit_code = self.process.wait()
        lines = [line for line in self._log.read_text().splitlines() if line.strip()]
        return Ended(exit_code, time.monotonic() - self._started_s, lines[-1] if lines else "")

    def resume(self) -> Ended:
        self._command(["train", "--resume", self.run])
        return self.end()

    def _command(self, arguments: list[str]) -> None:
        self._started_s = time.monotonic()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen([RAYPOSE, *arguments], stdout=log, stderr=log, start_new_session=True)


def killed_gateway(bench: Bench) -> Row:
    running = bench.start("killed-gateway")
    for step in (8, 40):
        running.wait_for_step(step)
        bench.gateway.kill()
        time.sleep(10)
        bench.gateway.revive()
    return bench.row("gateway killed and started again", "twice, away for 10 s and its start", running, running.end())


def frozen_gateway(bench: Bench) -> Row:
    running = bench.start("frozen-gateway")
    running.wait_for_step(8)
    bench.gateway.freeze()
    time.sleep(30)
    bench.gateway.thaw()
    return bench.row("gateway hangs", "once, silent for 30 s", running, running.end())


def gateway_away(bench: Bench) -> Row:
    running = bench.start("gateway-away", deadline_s=5.0)
    running.wait_for_step(8)
    bench.gateway.kill()
    ended = running.end()
    bench.gateway.revive()
    return bench.row("gateway away for longer than deadline_s", "once", running, ended, running.resume())


def bad_answers(bench: Bench) -> Row:
    with proxy_to(bench.gateway.endpoint) as proxy:
        running = bench.start("bad-answers", endpoint=proxy.endpoint)
        running.wait_for_step(1)
        before, proxy.choose = proxy.requests, some_of_all(0.3)
        ended = running.end()
        counts = ", ".join(f"{proxy.injected[fault]} {fault.value}" for fault in (Fault.REFUSED, Fault.SLOW, Fault.CUT))
        done = f"{counts} of {proxy.requests - before} answers"
    return bench.row("answers refused (5xx), slow or cut off", done, running, ended)


def flipped_under_way(bench: Bench) -> Row:
    with proxy_to(bench.gateway.endpoint) as proxy:
        proxy.choose = _first_of_each_shard()
        running = bench.start("flipped-under-way", endpoint=proxy.endpoint)
        ended = running.end()
        done = f"in the first answer with each shard, {proxy.injected[Fault.FLIPPED]} times"
    return bench.row("bit flipped on its way", done, running, ended)


def flipped_in_bucket(bench: Bench) -> Row:
    store = open_store(bench.place("train"))
    name = read_manifest(store).shards[-1].name
    sound = store.read(name)
    store.write(name, sound[:300] + bytes([sound[300] ^ 1]) + sound[301:])
    running = bench.start("flipped-in-bucket")
    ended = running.end()
    store.write(name, sound)
    return bench.row("bit flipped in a stored shard", "once", running, ended, running.resume())


def full_disk(bench: Bench) -> Row:
    with _small_disk(bench.work / "disk") as disk:
        running = bench.start("full-disk", f"data.cache_dir={disk}", "data.cache_bytes=1GiB")
        ended = running.end()
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        return bench.row("cache disk runs full", "256 KiB of disk", running, ended, running.resume())


def killed_worker(bench: Bench) -> Row:
    running = bench.start("killed-worker")
    for step in (8, 40):
        running.wait_for_step(step)
        kill_who_downloads(bench.cache("killed-worker"), psutil.Process(running.process.pid))
    return bench.row("worker killed while it downloads a shard", "twice", running, running.end())


def killed_driver(bench: Bench) -> Row:
    running = bench.start("killed-driver")
    running.wait_for_step(8)
    os.kill(running.process.pid, signal.SIGKILL)
    return bench.row("driver killed", "once", running, running.end(), running.resume())


SCENARIOS: tuple[Callable[[Bench], Row], ...] = (
    killed_gateway, frozen_gateway, gateway_away, bad_answers, flipped_under_way, flipped_in_bucket, full_disk,
    killed_worker, killed_driver,
)  # fmt: skip


def _first_of_each_shard() -> Choice:
    seen: set[str] = set()

    def choose(request: Request) -> Fault | None:
        name = request.path.partition("?")[0]
        if request.method != "GET" or not name.endswith(".pkl") or name in seen:
            return None
        seen.add(name)
        return Fault.FLIPPED

    return choose


def _written(folder: Path, *overrides: str) -> Path:
    """The configuration of a run as a file in `folder`."""
    config = tiny_run(
        Path("unused"), Path("unused"), "scaling.workers=2", "scaling.cpus_per_worker=1", "checkpoint.every_steps=4",
        *overrides,
    )  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(dump_config(config))
    return folder / "run.yaml"


def _newest(run: str) -> Mapping[str, torch.Tensor]:
    snapshot = CheckpointStore(open_store(run)).load_latest(lambda text: print(text, file=sys.stderr))
    return snapshot.tensors if snapshot and snapshot.progress.step == STEPS else {}


def _same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> bool:
    return set(found) == set(expected) and all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _undisturbed(data: Path, work: Path) -> tuple[str, Ended]:
    places = (f"data.train={data}/train", f"data.val={data}/val", f"storage={work}/runs")
    running = Running(work, f"{work}/runs/undisturbed", _written(work / "undisturbed", "name=undisturbed", *places))
    return running.run, running.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the dated result")
    parser.add_argument("--only", nargs="*", help="names of scenarios: " + ", ".join(s.__name__ for s in SCENARIOS))
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    work = Path(tempfile.mkdtemp(prefix="raypose-faults-"))
    data = build_synthetic(work / "data", train=256, shard_bytes=16 * 1024)
    run, ended = _undisturbed(data, work)
    if ended.exit_code:
        sys.exit(f"the undisturbed run failed: {ended.line}")
    print(f"undisturbed, from local folders: exit code {ended.exit_code} after {ended.seconds:.1f} s", flush=True)
    with ceph_gateway(work / "rgw") as gateway:
        bench = Bench(gateway, work, _newest(run))
        upload_sets(data, gateway.endpoint, BUCKET)
        chosen = [scenario for scenario in SCENARIOS if not options.only or scenario.__name__ in options.only]
        rows = [scenario(bench) for scenario in chosen]
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "undisturbed_seconds": round(ended.seconds, 1),
        "rows": [asdict(row) for row in rows],
        "same_ok": all(row.same for row in rows),
    }
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        name = f"faults-{datetime.now(UTC):%Y-%m-%d}.json"
        (options.out / name).write_text(json.dumps(result, indent=2) + "\n")
    shutil.rmtree(work)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
