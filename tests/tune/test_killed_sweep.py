"""`raypose tune` killed with -9 half-way, and `raypose tune --resume`."""

from __future__ import annotations

import csv
import json
import os
import signal
import uuid
from dataclasses import asdict
from pathlib import Path

import pytest

from raypose.config import parse_config
from raypose.config.s3_url import S3Location
from raypose.storage import ObjectStore, open_store
from raypose.tune.run import status
from tests.commands import running
from tests.s3.conftest import BUCKET
from tests.tune.sweep_files import STEPS_PER_EPOCH, tiny_sweep

pytestmark = pytest.mark.ray


@pytest.fixture(params=[pytest.param("local", marks=pytest.mark.slow), "moto"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "runs")
    endpoint = request.getfixturevalue("moto_endpoint")
    return S3Location(BUCKET, f"sweeps-{uuid.uuid4().hex[:12]}", endpoint_url=endpoint).url


def is_half_way(sweep: ObjectStore) -> bool:
    """One trial has ended, and another has saved something."""
    ended = sweep.exists("trials/0000/summary.json") or sweep.exists("trials/0001/summary.json")
    return ended and any("state.json" in entry.key for entry in sweep.list("trials/0002/checkpoints/"))


@pytest.mark.timeout(600)
def test_a_killed_sweep_keeps_what_ended_and_goes_on_with_the_rest(storage: str, data: Path, tmp_path: Path) -> None:
    log, sweep = tmp_path / "log.txt", open_store(storage).child("sweep")
    with running(["tune", str(tiny_sweep(tmp_path, data, storage))], log) as first:
        first.wait_until(lambda: is_half_way(sweep), 250)
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
    ended = [one for one in status(sweep.url).trials if one.status == "finished"]
    summaries = {one.name: sweep.read(f"trials/{one.name}/summary.json") for one in ended}

    with running(["tune", "--resume", sweep.url], log) as second:
        assert second.process.wait(timeout=300) == 0, log.read_text()
    result = status(sweep.url)
    assert (result.state.status, result.state.sittings) == ("finished", 2)
    assert [one.status for one in result.trials] == ["finished"] * 3
    assert all(json.dumps(asdict(one)) in [json.dumps(asdict(now)) for now in result.trials] for one in ended)
    assert {name: sweep.read(f"trials/{name}/summary.json") for name in summaries} == summaries
    # Every batch counts once, and those that were done again are counted apart.
    assert [one.steps for one in result.trials] == [4 * STEPS_PER_EPOCH] * 3
    assert all(json.loads(sweep.read(f"trials/{one.name}/summary.json"))["steps"] == one.steps for one in result.trials)
    rows = list(csv.DictReader(sweep.read("trials.csv").decode().splitlines()))
    assert [row["status"] for row in rows] == ["finished"] * 3
    best = parse_config(sweep.read("best.yaml").decode(), "best.yaml")
    assert best.train.lr0 == result.ranked[0].parameters["train.lr0"]
    assert sweep.exists("report.html")
