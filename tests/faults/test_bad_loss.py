"""A batch whose loss is not finite: kept, named, and answered as `train.on_bad_loss` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from raypose.checkpoint import CheckpointStore, Snapshot
from raypose.config import RunConfig
from raypose.engine.setup import Parts, prepare
from raypose.engine.world import World
from raypose.errors import TrainingError
from raypose.storage import open_store
from raypose.structures import Batch
from raypose.telemetry import Event, Notice
from tests.data_sets import tiny_run
from tests.faults import interrupted

BAD_STEP = 7


def run_of(data: Path, storage: Path, *overrides: str) -> RunConfig:
    always = ["scaling.virtual_workers=2", "telemetry.log_every_steps=1", "checkpoint.keep_last=9"]
    return tiny_run(data, storage, *always, *overrides)


def micro_batches(parts: Parts, step: int) -> tuple[Batch, ...]:
    return next(iter(parts.loader(step)))


def poison(parts: Parts, *steps: int) -> None:
    """Make the model overflow on the second virtual worker's pictures of these steps, whenever they come."""
    pictures = [torch.from_numpy(micro_batches(parts, step)[1].image_B3HW).float() / 255 for step in steps]

    def overflow(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        is_poison = any(torch.equal(inputs[0].float(), picture) for picture in pictures)
        return (inputs[0] * float("inf"),) if is_poison else None

    parts.model.register_forward_pre_hook(overflow)


def train(config: RunConfig, *bad_steps: int, cut_after: int | None = None) -> tuple[list[Event], Snapshot]:
    return interrupted.train(config, cut_after=cut_after, spoil=lambda parts: poison(parts, *bad_steps))


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice) and "not finite" in event.text]


def assert_same_tensors(found: Snapshot, expected: Snapshot) -> None:
    assert set(found.tensors) == set(expected.tensors)
    assert [name for name, one in expected.tensors.items() if not torch.equal(found.tensors[name], one)] == []


def test_the_run_stops_with_the_batch_kept_and_every_checkpoint_sound(data: Path, tmp_path: Path) -> None:
    config = run_of(data, tmp_path, "checkpoint.every_steps=2")
    with pytest.raises(TrainingError, match=r"step 7: the loss is not finite \(.*nan") as caught:
        train(config, BAD_STEP)
    folder = tmp_path / "tiny/bad-batches/step-00000007"
    assert str(folder) in str(caught.value)
    assert "train.on_bad_loss=skip" in str(caught.value)
    parts = prepare(config, World(), open_store(str(tmp_path / "tiny")), lambda _: None)
    assert parts.progress.step == 6
    assert all(tensor.isfinite().all() for tensor in parts.model.state_dict().values())

    record = json.loads((folder / "batch.json").read_text())
    (lane,) = record["virtual_workers"]  # the other one's loss was well
    assert (record["step"], lane["virtual_worker"]) == (7, 1)
    assert "nan" in lane["losses"].values()
    batch = micro_batches(parts, BAD_STEP)[1]
    assert [sample["id"] for sample in lane["samples"]] == list(batch.ids)
    for sample, image_3HW in zip(lane["samples"], batch.image_B3HW, strict=True):
        picture = cv2.imread(str(folder / sample["picture"]))
        np.testing.assert_array_equal(picture[..., ::-1].transpose(2, 0, 1), image_3HW)
    assert sum(len(sample["boxes_cxcywh"]) for sample in lane["samples"]) == len(batch.class_N)


def test_a_run_that_stopped_goes_on_without_the_batch_when_asked_to_skip(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        train(run_of(data, tmp_path / "stopped", "checkpoint.every_steps=2"), BAD_STEP)
    events, found = train(run_of(data, tmp_path / "stopped", "train.on_bad_loss=skip"), BAD_STEP)
    _, expected = train(run_of(data, tmp_path / "skipped", "train.on_bad_loss=skip"), BAD_STEP)
    assert len(notices(events)) == 1
    assert (found.progress.step, found.progress.bad_steps) == (12, 1)
    assert found.progress.updates == expected.progress.updates == 11
    assert_same_tensors(found, expected)


RECIPES = {
    "skip": ["train.on_bad_loss=skip", "checkpoint.every_steps=3"],
    "skip, adding up": ["train.on_bad_loss=skip", "checkpoint.every_steps=2", "train.optimizer=SGD", "train.nbs=24"],
    "rollback": ["train.on_bad_loss=rollback", "checkpoint.every_steps=3"],
}


@pytest.mark.parametrize("recipe", [pytest.param("skip", marks=pytest.mark.slow), *list(RECIPES)[1:]])
def test_a_run_with_a_bad_batch_resumes_bit_for_bit(recipe: str, data: Path, tmp_path: Path) -> None:
    events, expected = train(run_of(data, tmp_path / "whole", *RECIPES[recipe]), BAD_STEP)
    assert len(notices(events)) == 1
    assert all(tensor.isfinite().all() for tensor in expected.tensors.values())
    parted = run_of(data, tmp_path / "parted", *RECIPES[recipe])
    train(parted, BAD_STEP, cut_after=8)  # the bad step is done, and in no checkpoint: it comes again
    train(parted, BAD_STEP, cut_after=10)
    _, found = train(parted, BAD_STEP)
    assert found.progress.step == 12
    assert found.progress.bad_steps == expected.progress.bad_steps == 1
    assert_same_tensors(found, expected)


def test_rolling_back_takes_the_weights_of_the_newest_checkpoint_and_the_data_after_the_bad_step(
    data: Path, tmp_path: Path
) -> None:
    events, last = train(run_of(data, tmp_path, "train.on_bad_loss=rollback", "checkpoint.every_steps=5"), BAD_STEP)
    (notice,) = notices(events)
    assert "weights go back to those of step 6, data goes on at step 8" in notice  # step 6 ended an epoch
    assert (last.progress.step, last.progress.updates) == (12, 6 + 4)


def test_more_bad_steps_in_a_row_than_allowed_end_the_run(data: Path, tmp_path: Path) -> None:
    config = run_of(data, tmp_path, "train.on_bad_loss=skip", "train.max_bad_steps=2")
    with pytest.raises(TrainingError, match=r"step 9: .*number 3 in a row, train\.max_bad_steps allows 2"):
        train(config, 7, 8, 9)


def test_bad_steps_with_good_ones_between_them_are_let_pass(data: Path, tmp_path: Path) -> None:
    config = run_of(data, tmp_path, "train.on_bad_loss=skip", "train.max_bad_steps=1")
    _, last = train(config, 3, 7, 9)
    assert (last.progress.bad_steps, last.progress.bad_steps_in_a_row) == (3, 0)


def test_there_is_nothing_to_roll_back_to_before_the_first_checkpoint(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no checkpoint yet to roll back to"):
        train(run_of(data, tmp_path, "train.on_bad_loss=rollback"), 2)
    assert CheckpointStore(open_store(str(tmp_path / "tiny"))).saved() == []
