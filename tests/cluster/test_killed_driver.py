"""`raypose train` killed with -9 in the middle, and `raypose train --resume`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raypose.config import dump_config
from raypose.storage import open_store
from raypose.telemetry.logbook import read_rows
from tests.data_sets import tiny_run

pytestmark = pytest.mark.ray


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-c", "from raypose.cli import main; main()", *arguments],
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_run_goes_on_from_its_last_checkpoint(data: Path, tmp_path: Path) -> None:
    config = tiny_run(data, tmp_path, "scaling.workers=2", "train.epochs=6", "checkpoint.every_steps=2")
    (tmp_path / "run.yaml").write_text(dump_config(config))
    log = tmp_path / "log.txt"
    process = start(["train", str(tmp_path / "run.yaml")], log)
    wait_for(tmp_path / "tiny/checkpoints/step-00000010/state.json", process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "tiny/summary.json").exists()

    resumed = start(["train", "--resume", str(tmp_path / "tiny")], log)
    assert resumed.wait(timeout=300) == 0, log.read_text()
    assert "resumed at step" in log.read_text()
    summary = json.loads((tmp_path / "tiny/summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["epochs"]) == ("completed", 36, 6)
    assert 0.0 <= summary["best"]["pose_ap50"] <= 1.0
    steps = [row["step"] for row in read_rows(open_store(str(tmp_path / "tiny"))) if row["kind"] == "train"]
    assert steps == sorted(set(steps))
    assert steps[-1] == 36


@pytest.mark.timeout(400)
def test_a_terminated_run_saves_where_it_stands_and_exits_with_130(data: Path, tmp_path: Path) -> None:
    config = tiny_run(data, tmp_path, "scaling.workers=2", "train.epochs=50", "checkpoint.every_epochs=50")
    (tmp_path / "run.yaml").write_text(dump_config(config))
    log = tmp_path / "log.txt"
    process = start(["train", str(tmp_path / "run.yaml")], log)
    wait_for(tmp_path / "tiny/metrics.jsonl", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 130, log.read_text()
    last_line = log.read_text().splitlines()[-1]
    assert "state saved" in last_line
    assert "raypose train --resume" in last_line
    steps = [int(path.name.removeprefix("step-")) for path in (tmp_path / "tiny/checkpoints").iterdir()]
    assert any(f"after step {step} of 300" in last_line for step in steps)
