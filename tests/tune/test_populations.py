"""Population-based training with real runs: weights change hands bit for bit, and training goes on from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import raypose.api
from raypose.checkpoint import Snapshot
from raypose.storage import open_store
from raypose.telemetry.logbook import read_rows
from raypose.tune.controller import View
from tests.data_sets import newest_checkpoint
from tests.tune.sweep_files import STEPS_PER_EPOCH, tiny_sweep

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.timeout(600)
def test_the_worst_member_goes_on_from_the_bits_of_the_best(data: Path, tmp_path: Path) -> None:
    settings = {
        "scheduler": {"use": "pbt", "every_epochs": 2, "resample": 0.0},
        "budget": {"trials": 2},
        "metric": "box_ap",
    }
    file = tiny_sweep(tmp_path, data, str(tmp_path / "runs"), **settings)
    trials = tmp_path / "runs/sweep/trials"
    at_takeover: list[tuple[Snapshot, Snapshot]] = []

    def watch(view: View) -> None:
        """Looks at both right after the takeover: to begin again takes workers longer than this."""
        for trial in view.trials:
            for exploit in trial.exploits:
                if not at_takeover:
                    at_takeover.append(
                        (newest_checkpoint(trials / f"{exploit.source:04d}"), newest_checkpoint(trials / trial.name))
                    )

    result = raypose.api.tune(file, watch=watch)
    [(source, taken)] = at_takeover
    assert taken.progress == source.progress
    assert taken.progress.step == 2 * STEPS_PER_EPOCH
    assert taken.tensors.keys() == source.tensors.keys()
    assert [name for name, tensor in source.tensors.items() if not torch.equal(tensor, taken.tensors[name])] == []

    assert [(trial.status, trial.reason) for trial in result.trials] == [("finished", "")] * 2
    [target] = [trial for trial in result.trials if trial.exploits]
    [exploit] = target.exploits
    assert (exploit.epoch, exploit.source) == (2, 1 - target.number)
    assert exploit.parameters != result.trials[exploit.source].parameters
    run = open_store(str(trials / target.name))
    rows = [row["step"] for row in read_rows(run) if row["kind"] == "train"]
    assert rows == list(range(1, 4 * STEPS_PER_EPOCH + 1))
    assert [one.steps for one in result.trials] == [4 * STEPS_PER_EPOCH] * 2
