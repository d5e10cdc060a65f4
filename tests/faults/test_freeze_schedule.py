"""Layers that are frozen for some epochs: they stand still as long, and a run that was cut off agrees."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from raypose.checkpoint import CheckpointStore, checkpoint_name
from raypose.config import RunConfig
from raypose.engine.setup import prepare
from raypose.engine.world import World
from raypose.storage import open_store
from tests.data_sets import newest_checkpoint, tiny_run
from tests.faults.interrupted import train

STEPS_PER_EPOCH = 6


def run_of(data: Path, storage: Path) -> RunConfig:
    """Three epochs: the first two layers frozen, then the first twenty, then none. An update takes two steps."""
    return tiny_run(
        data, storage, "train.epochs=3", "train.freeze=2", "train.freeze_schedule={1: 20, 2: 0}", "train.nbs=16",
        "train.warmup_epochs=0", "checkpoint.every_steps=2", "checkpoint.keep_last=20", "val.every_epochs=3",
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run that nothing disturbed."""
    config = run_of(data, tmp_path_factory.mktemp("whole"))
    train(config)
    return config


def weights(config: RunConfig, step: int) -> dict[str, torch.Tensor]:
    snapshot = CheckpointStore(open_store(config.storage).child(config.name)).load(checkpoint_name(step))
    return {name.removeprefix("model."): tensor for name, tensor in snapshot.tensors.items() if name[:6] == "model."}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], layer: int) -> bool:
    names = [name for name in before if name.startswith(f"model.{layer}.")]
    return any(not torch.equal(before[name], after[name]) for name in names)


def test_layers_stand_still_as_long_as_they_are_frozen(whole: RunConfig) -> None:
    parts = prepare(whole, World(), open_store(whole.storage).child("untouched"), lambda event: None)
    start = {name: tensor.clone() for name, tensor in parts.model.state_dict().items()}
    ends = [start, *(weights(whole, STEPS_PER_EPOCH * epoch) for epoch in (1, 2, 3))]
    stages = list(pairwise(ends))
    assert [moved(*stage, layer=1) for stage in stages] == [False, False, True]
    assert [moved(*stage, layer=10) for stage in stages] == [True, False, True]
    assert [moved(*stage, layer=23) for stage in stages] == [True, True, True]


@pytest.mark.parametrize("cut_after", [8, 12])
def test_a_run_that_was_cut_off_goes_on_with_the_same_layers_frozen(
    whole: RunConfig, data: Path, tmp_path: Path, cut_after: int
) -> None:
    expected = newest_checkpoint(whole).tensors
    cut = run_of(data, tmp_path)
    train(cut, cut_after=cut_after)
    found = train(cut)[1].tensors
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
