"""`raypose predict --workers` from a bucket into a bucket: a worker and the driver killed with -9, and called again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypose.data.synth import synthesize
from raypose.storage import ObjectStore, open_store
from tests.commands import Command, running
from tests.ports import free_port
from tests.processes import processes_below
from tests.s3.servers import Moto, make_bucket, s3_environment
from tests.served_run import add_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow]

IMAGES = 1000
BAD = "photos/0500.jpg"


@pytest.fixture
def bucket() -> Iterator[ObjectStore]:
    """A bucket with IMAGES small images, one of them none."""
    server = Moto(free_port())
    with s3_environment(server.endpoint):
        make_bucket(server.endpoint, "people")
        store = open_store("s3://people")
        drawn = [sample.image for sample in synthesize(8, seed=5, size_px=96)]
        for number in range(IMAGES):
            store.write(f"photos/{number:04}.jpg", drawn[number % len(drawn)])
        store.write(BAD, b"no image")
        yield store
    server.kill()


def kill_a_worker(driver: Command) -> None:
    workers = processes_below(driver.process.pid, "_Actor")
    assert workers, "no worker process was found"
    workers[0].kill()


def published(bucket: ObjectStore) -> int:
    return len(list(bucket.list("found/predictions/")))


@pytest.mark.timeout(300)
def test_every_input_has_one_result_though_a_worker_and_the_driver_were_killed(
    bucket: ObjectStore, tmp_path: Path
) -> None:
    model = add_checkpoint(tmp_path / "run", 1, seed=1, pose_ap=0.5)
    words = "predict s3://people/photos --out s3://people/found --workers 2 --no-pictures --imgsz 96 --model"
    command = [*words.split(), str(model)]
    with running(command, tmp_path / "first.log") as first:
        first.wait_until(lambda: published(bucket) >= 1)
        kill_a_worker(first)
        before = published(bucket)
        first.wait_until(lambda: published(bucket) > before)
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
    kept = {entry.key: bucket.read(entry.key) for entry in bucket.list("found/predictions/")}
    assert not bucket.exists("found/summary.json")
    assert 2 <= len(kept) < 8

    with running(command, tmp_path / "second.log") as second:
        assert second.process.wait(timeout=120) == 3, second.log.read_text()  # one image is none
    assert BAD in second.log.read_text()
    parts = {entry.key: bucket.read(entry.key) for entry in bucket.list("found/predictions/")}
    assert {key: parts[key] for key in kept} == kept
    rows = [json.loads(line) for content in parts.values() for line in content.splitlines()]
    assert sorted(row["file"] for row in rows) == [f"{number:04}.jpg" for number in range(IMAGES)]
    assert [row["file"] for row in rows if "error" in row] == [Path(BAD).name]
    summary = json.loads(bucket.read("found/summary.json"))
    assert (summary["inputs"], summary["images"], summary["failed"]) == (IMAGES, IMAGES - 1, 1)
    # Or more: a worker may outlive its driver by the part that it has begun.
    assert IMAGES > summary["resumed"] >= sum(len(content.splitlines()) for content in kept.values())
