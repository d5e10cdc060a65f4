"""Models, batches and pictures that the parity tests with Ultralytics share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from raypose.config.schema import TrainConfig
from raypose.model import ModelSpec, build_model
from raypose.structures import COCO_PERSON, Batch, ImageArray, Skeleton

ModelFactory = Callable[[ModelSpec], nn.Module]

LSP_LIKE = Skeleton(tuple(f"joint_{index}" for index in range(14)), flip_pairs=((0, 5), (1, 4), (2, 3)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `spec` runs for both generations of heads, with COCO's skeleton and another."""
    if "spec" in metafunc.fixturenames:
        specs = [
            ModelSpec(architecture, skeleton, ("person",))
            for architecture in ("yolo11n-pose", "yolo26n-pose")
            for skeleton in (COCO_PERSON, LSP_LIKE)
        ]
        metafunc.parametrize("spec", specs, ids=lambda spec: f"{spec.architecture}-{spec.skeleton.keypoints}")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Summation order, and so the last digits, depend on the number of threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def picture() -> ImageArray:
    """Smooth random colours, neither square nor a multiple of the stride."""
    noise = np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return cv2.resize(noise, (301, 226), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="session")
def lively_model(picture: ImageArray) -> ModelFactory:
    """Random models that find plenty of people with scores far apart, as a few epochs of training would give.

    Their BatchNorm layers have mostly seen the picture: untouched ones let the signal die out, fully adapted
    ones make the network so chaotic that rounding alone moves boxes by tenths of a pixel.
    """
    image = torch.from_numpy(cv2.resize(picture, (256, 192))).permute(2, 0, 1)[None].float() / 255

    @cache
    def make(spec: ModelSpec) -> nn.Module:
        model = build_model(spec, TrainConfig(imgsz=256), seed=0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.9
        with torch.no_grad():
            model(image.repeat(2, 1, 1, 1))
            model.eval()
            _, outputs = model(image)
            head = model.model[-1]
            _spread_scores(head.cv3, outputs.get("one2many", outputs))
            if "one2one" in outputs:
                _spread_scores(head.one2one_cv3, outputs["one2one"])
        return model

    return make


def _spread_scores(branches: nn.ModuleList, outputs: dict[str, Any]) -> None:
    """Scale the last convolutions so that scores scatter widely below one half, and some above."""
    anchors = [feature.shape[2] * feature.shape[3] for feature in outputs["feats"]]
    for branch, logits in zip(branches, outputs["scores"].split(anchors, dim=2), strict=True):
        last = branch[-1]
        gain = 1.5 / logits.std()
        mean = gain * (logits.mean() - last.bias.mean())
        last.weight.mul_(gain)
        last.bias.copy_((-2.0 - mean).expand_as(last.bias))


def random_batch(keypoints: int, seed: int = 0) -> Batch:
    """Three images: three people, one person, nobody; some keypoints not labelled."""
    rng = np.random.default_rng(seed)
    centre, size = rng.uniform(0.3, 0.7, (4, 2)), rng.uniform(0.2, 0.5, (4, 2))
    points = centre[:, None] + (rng.random((4, keypoints, 2)) - 0.5) * size[:, None]
    visibility = rng.integers(0, 3, (4, keypoints, 1))
    return Batch(
        image_B3HW=rng.integers(0, 256, (3, 3, 96, 128), dtype=np.uint8),
        class_N=np.zeros(4, np.int64),
        box_cxcywh_N4=np.concatenate([centre, size], 1).astype(np.float32),
        keypoints_NK3=np.concatenate([points, visibility], 2).astype(np.float32),
        image_index_N=np.array([0, 0, 0, 1]),
        ids=("three", "one", "nobody"),
    )
