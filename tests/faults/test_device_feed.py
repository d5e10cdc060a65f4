"""Training whose pictures are drawn by tensor operations, as on a GPU: the same people, and as exact to resume."""

from __future__ import annotations

from pathlib import Path

import torch

from raypose.engine.setup import prepare
from raypose.engine.world import World
from raypose.storage import open_store
from tests.data_sets import tiny_run
from tests.faults.interrupted import train


def test_a_device_draws_the_pictures_of_the_processor_and_has_its_targets(data: Path, tmp_path: Path) -> None:
    drawn = {}
    for on_device in (False, True):
        config = tiny_run(data, tmp_path, f"name=run-{on_device}", f"train.device_augment={str(on_device).lower()}")
        parts = prepare(config, World(), open_store(config.storage).child(config.name), lambda event: None)
        drawn[on_device] = [batch for batches, _ in zip(parts.feed(0), range(6), strict=False) for batch in batches]
    for reference, found in zip(drawn[False], drawn[True], strict=True):
        assert found.ids == reference.ids
        for name in ("cls", "bboxes", "keypoints", "batch_idx"):
            assert torch.equal(found.targets[name], reference.targets[name])
        difference = (found.targets["img"] - reference.targets["img"]).abs() * 255
        assert difference.mean() < 2.5  # levels: drawn people have sharp edges, at which half a pixel shows
        assert found.targets["img"].std() > 0.05


def test_a_run_on_device_drawn_pictures_resumes_bit_for_bit(data: Path, tmp_path: Path) -> None:
    config = tiny_run(data, tmp_path / "cut", "train.device_augment=true", "checkpoint.every_steps=4")
    train(config, cut_after=6)
    _, resumed = train(config)
    _, whole = train(tiny_run(data, tmp_path / "whole", "train.device_augment=true", "checkpoint.every_steps=4"))
    assert resumed.progress.step == whole.progress.step == 12
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())
