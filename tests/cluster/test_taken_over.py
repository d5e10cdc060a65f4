"""`raypose train --resume` of a run that is being trained: the newcomer goes on, the older one ends and says why."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from raypose.config import dump_config
from raypose.storage import open_store
from raypose.telemetry.logbook import read_rows
from tests.commands import newest_step, running
from tests.data_sets import tiny_run

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.timeout(400)
def test_of_two_that_train_one_run_the_later_goes_on(data: Path, tmp_path: Path) -> None:
    config = tiny_run(
        data, tmp_path, "scaling.workers=2", "train.epochs=400", "val.every_epochs=400", "checkpoint.every_steps=5",
        "checkpoint.every_epochs=400",
    )  # fmt: skip
    (tmp_path / "run.yaml").write_text(dump_config(config))
    run = open_store(str(tmp_path / "tiny"))
    with running(["train", str(tmp_path / "run.yaml")], tmp_path / "older.txt") as older:
        older.wait_until(lambda: newest_step(run) >= 10)
        with running(["train", "--resume", run.url], tmp_path / "newer.txt") as newer:
            assert older.process.wait(timeout=120) == 1, older.log.read_text()
            last_line = older.log.read_text().splitlines()[-1]
            holder = json.loads(run.read("writer.json"))
            assert f"on {holder['host']} has taken this run over" in last_line
            taken_over_at = newest_step(run)
            newer.wait_until(lambda: newest_step(run) >= taken_over_at + 10)  # it has saved twice
            newer.process.terminate()
            assert newer.process.wait(timeout=120) == 130, newer.log.read_text()
    resumed = re.search(r"resumed at step (\d+)", newer.log.read_text())
    assert resumed
    steps = [row["step"] for row in read_rows(run) if row["kind"] == "train"]
    assert steps == sorted(set(steps))
    # A line for every second step; those of a checkpoint that was just being told of may be left out.
    missing = set(range(2, steps[-1] + 2, 2)) - set(steps)
    assert all(int(resumed[1]) - 10 < step <= int(resumed[1]) for step in missing)
