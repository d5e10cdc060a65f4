"""`raypose train` killed with -9 in the middle, and `raypose train --resume`."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from raypose.config import dump_config
from raypose.storage import open_store
from raypose.telemetry.logbook import read_rows
from tests.commands import newest_step, running
from tests.data_sets import tiny_run

pytestmark = pytest.mark.ray


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_run_goes_on_from_its_last_checkpoint(data: Path, tmp_path: Path) -> None:
    config = tiny_run(data, tmp_path, "scaling.workers=2", "train.epochs=6", "checkpoint.every_steps=2")
    (tmp_path / "run.yaml").write_text(dump_config(config))
    run = open_store(str(tmp_path / "tiny"))
    with running(["train", str(tmp_path / "run.yaml")], tmp_path / "log.txt") as command:
        command.wait_until(lambda: newest_step(run) >= 10)
        os.kill(command.process.pid, signal.SIGKILL)
        command.process.wait()
    assert not (tmp_path / "tiny/summary.json").exists()

    with running(["train", "--resume", str(tmp_path / "tiny")], tmp_path / "resumed.txt") as resumed:
        assert resumed.process.wait(timeout=300) == 0, resumed.log.read_text()
    assert "resumed at step" in resumed.log.read_text()
    summary = json.loads((tmp_path / "tiny/summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["epochs"]) == ("completed", 36, 6)
    assert 0.0 <= summary["best"]["pose_ap50"] <= 1.0
    steps = [row["step"] for row in read_rows(run) if row["kind"] == "train"]
    assert steps == sorted(set(steps))
    assert steps[-1] == 36


@pytest.mark.timeout(400)
def test_a_terminated_run_saves_where_it_stands_and_exits_with_130(data: Path, tmp_path: Path) -> None:
    config = tiny_run(data, tmp_path, "scaling.workers=2", "train.epochs=50", "checkpoint.every_epochs=50")
    (tmp_path / "run.yaml").write_text(dump_config(config))
    log = tmp_path / "log.txt"
    with running(["train", str(tmp_path / "run.yaml")], log) as command:
        command.wait_until((tmp_path / "tiny/metrics.jsonl").exists)
        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(timeout=120) == 130, log.read_text()
    last_line = log.read_text().splitlines()[-1]
    assert "state saved" in last_line
    assert "raypose train --resume" in last_line
    steps = [int(path.name.removeprefix("step-")) for path in (tmp_path / "tiny/checkpoints").iterdir()]
    assert any(f"after step {step} of 300" in last_line for step in steps)
