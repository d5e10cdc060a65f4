"""`raypose train --resume` of a run that is being trained: the newcomer goes on, the older one ends and says why."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from raypose.config import dump_config
from raypose.storage import open_store
from raypose.telemetry.logbook import read_rows
from tests.cluster.test_killed_driver import start, wait_for
from tests.data_sets import tiny_run

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.timeout(400)
def test_of_two_that_train_one_run_the_later_goes_on(data: Path, tmp_path: Path) -> None:
    config = tiny_run(
        data, tmp_path, "scaling.workers=2", "train.epochs=400", "val.every_epochs=400", "checkpoint.every_steps=5",
        "checkpoint.every_epochs=400",
    )  # fmt: skip
    (tmp_path / "run.yaml").write_text(dump_config(config))
    run, logs = tmp_path / "tiny", (tmp_path / "older.txt", tmp_path / "newer.txt")
    older = start(["train", str(tmp_path / "run.yaml")], logs[0])
    wait_for(run / "checkpoints/step-00000010/state.json", older)
    newer = start(["train", "--resume", str(run)], logs[1])
    assert older.wait(timeout=120) == 1, logs[0].read_text()
    last_line = logs[0].read_text().splitlines()[-1]
    holder = json.loads((run / "writer.json").read_text())
    assert f"on {holder['host']} has taken this run over" in last_line
    wait_for_progress(run, newer)
    newer.terminate()
    assert newer.wait(timeout=120) == 130, logs[1].read_text()
    resumed = re.search(r"resumed at step (\d+)", logs[1].read_text())
    assert resumed
    steps = [row["step"] for row in read_rows(open_store(str(run))) if row["kind"] == "train"]
    assert steps == sorted(set(steps))
    # A line for every second step; those of a checkpoint that was just being told of may be left out.
    missing = set(range(2, steps[-1] + 2, 2)) - set(steps)
    assert all(int(resumed[1]) - 10 < step <= int(resumed[1]) for step in missing)


def wait_for_progress(run: Path, process: object) -> None:
    """Until the newcomer has saved twice."""
    saved = sorted(path.parent.name for path in run.glob("checkpoints/*/state.json"))[-1]
    step = int(saved.removeprefix("step-"))
    wait_for(run / f"checkpoints/step-{step + 10:08d}/state.json", process)  # type: ignore[arg-type]
