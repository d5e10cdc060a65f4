"""`raypose val` on Ray: the same JSON from any number of workers, and from training itself."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raypose
from raypose.cli import main
from raypose.data.shard_set import ShardSet
from raypose.engine.candidate import Candidate
from raypose.errors import CheckpointError, DataError
from raypose.inference import Predictor
from raypose.launch.validate import predict_on_ray
from raypose.structures import ImageResult, json_ready
from raypose.telemetry import Event

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


@pytest.fixture(scope="module")
def run(finished: tuple[dict[str, Any], list[Event]]) -> dict[str, Any]:
    """The summary of a run that was trained, and validated, by two workers."""
    return finished[0]


def printed_by_val(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["val", *arguments, "--json"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_one_two_and_four_workers_and_none_print_the_same_json_as_training(
    run: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    here = printed_by_val(capsys, run["folder"])
    for workers in ("1", "2", "4"):
        assert printed_by_val(capsys, run["folder"], "--workers", workers) == here
    best = {name: value for name, value in run["best"].items() if name not in ("epoch", "step")}
    assert json.loads(here) == json_ready(best)


def test_test_time_augmentation_is_the_same_on_workers(run: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--flip", "--scales", "0.5,1,1.5", "--batch", "2")
    plain, here = printed_by_val(capsys, run["folder"]), printed_by_val(capsys, run["folder"], *options)
    assert printed_by_val(capsys, run["folder"], *options, "--workers", "2") == here != plain


def test_a_worker_whose_process_is_killed_costs_time_but_no_image(
    run: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    shards = ShardSet.open(str(data / "val"))
    settings = {"imgsz": None, "conf": 0.001, "iou": 0.7, "max_det": 50, "device": "cpu"}
    sound = Candidate(run["folder"], **settings)
    fragile = _DyingOnce(run["folder"], **settings, marker=str(tmp_path / "died"))
    found = [list(predict_on_ray(candidate, shards, batch=4, workers=2)) for candidate in (sound, fragile)]
    assert (tmp_path / "died").exists()
    assert [result.id for result in found[0]] == [sample.id for sample in shards]
    for one, other in zip(*found, strict=True):
        _assert_same(one, other)


def test_what_is_wrong_with_the_model_is_said_before_ray_is_asked(run: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        raypose.validate(tmp_path / "nowhere", data=str(tmp_path), workers=2)
    with pytest.raises(DataError, match=r"manifest\.json"):
        raypose.validate(run["folder"], data=str(tmp_path), workers=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _DyingOnce(Candidate):
    """Takes the whole process along that opens it, once."""

    marker: str

    def open(self) -> Predictor:
        if not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Candidate.open(self)


def _assert_same(one: ImageResult, other: ImageResult) -> None:
    assert one.id == other.id
    np.testing.assert_array_equal(one.poses.keypoints_NK3, other.poses.keypoints_NK3)
    np.testing.assert_array_equal(one.people.keypoints_NK3, other.people.keypoints_NK3)
