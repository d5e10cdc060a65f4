"""Under bfloat16 autocast the loss still sees where keypoints are to a fraction of a pixel."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from raypose.config.schema import TrainConfig
from raypose.engine.average import WeightAverage
from raypose.engine.feed import DeviceBatch
from raypose.engine.precision import Precision
from raypose.engine.schedule import Schedule
from raypose.engine.step import TrainStep
from raypose.engine.world import World
from raypose.model import ModelSpec, build_model, build_optimizer, compute_loss, normalise_in_one_go, targets_from_batch
from raypose.structures import COCO_PERSON
from tests.parity.conftest import random_batch


class _RoundedModel(nn.Module):
    """A model whose layers compute in float32, but hand out bfloat16, as under autocast."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model  # as torch.compile has it

    def forward(self, image: Tensor) -> dict[str, Tensor | list[Tensor]]:
        found = self._orig_mod(image)
        return {
            name: [each.bfloat16() for each in part] if isinstance(part, list) else part.bfloat16()
            for name, part in found.items()
        }


def test_the_loss_of_rounded_predictions_is_computed_in_float32() -> None:
    """One person at the far end of a large image: 1,280 px are 160 cells, where bfloat16 counts in whole cells."""
    model = build_model(ModelSpec("yolo11n-pose", COCO_PERSON, ("person",)), TrainConfig(imgsz=1280), seed=0)
    keypoints_NK3 = torch.full((1, 17, 3), 0.93)
    keypoints_NK3[..., 2] = 2
    targets = {
        "img": torch.rand(1, 3, 1280, 1280, generator=torch.Generator().manual_seed(0)),
        "cls": torch.zeros(1, 1),
        "bboxes": torch.tensor([[0.93, 0.93, 0.05, 0.05]]),
        "keypoints": keypoints_NK3,
        "batch_idx": torch.zeros(1),
    }
    with torch.no_grad():
        _, exact = compute_loss(model, targets)
        _, rounded = compute_loss(_RoundedModel(model), targets)
    # Predictions near zero lose little in bfloat16; only their sum with the grid's positions would.
    assert rounded.tolist() == pytest.approx(exact.tolist(), rel=0.01)


@pytest.mark.parametrize("sync_bn", [False, True])
def test_the_loss_goes_back_in_float32(sync_bn: bool) -> None:
    """yolo26 has layers inside its loss, whose products autocast would round on the way back alone."""
    train = TrainConfig(imgsz=96, batch=3, nbs=6, epochs=2, warmup_epochs=0, optimizer="SGD", sync_bn=sync_bn)
    model = build_model(ModelSpec("yolo26n-pose", COCO_PERSON, ("person",)), train, seed=0)
    reference = copy.deepcopy(model)
    precision = Precision("bfloat16", "cpu")
    schedule = Schedule.of(train, samples=12, total_steps=8, warmup_bias_lr=0.1)
    assert not schedule.updates_at(0), "the gradient is to be looked at"
    step = TrainStep(
        model=model,
        optimizer=build_optimizer(model, train, 8),
        average=WeightAverage(model, decay=0.9, tau=1.0),
        schedule=schedule,
        precision=precision,
        train=train,
        lanes=1,
        world=World(),
    )
    targets = targets_from_batch(random_batch(17), "cpu")
    targets["img"] = targets["img"][..., :96]
    step(0, [DeviceBatch(targets, ("a", "b", "c"))], updates=0)
    if not sync_bn:
        normalise_in_one_go(reference)  # as the step does
    with precision.autocast():
        loss, _ = compute_loss(reference, targets)
    loss.backward()
    expected = {name: parameter.grad for name, parameter in reference.named_parameters() if "flow_model" in name}
    assert expected
    for name, parameter in model.named_parameters():
        if name in expected:
            assert torch.equal(parameter.grad, expected[name]), name
