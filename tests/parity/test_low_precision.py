"""Under bfloat16 autocast the loss still sees where keypoints are to a fraction of a pixel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raypose.config.schema import TrainConfig
from raypose.model import ModelSpec, build_model, compute_loss
from raypose.structures import COCO_PERSON


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
