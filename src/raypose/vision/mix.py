"""Two training images made one as Ultralytics does: MixUp blends them, CutMix puts a part of one into the other.

Each is augmented by itself first; colours and flips come after, for both together. MixUp: Zhang et al.,
https://arxiv.org/abs/1710.09412; CutMix: Yun et al., https://arxiv.org/abs/1905.04899.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from raypose.structures import ImageArray

MIXUP_BETA = 32.0
CUTMIX_BETA = 1.0
CUTMIX_ATTEMPTS = 3
MIN_SHARE_IN_AREA = 0.1
"""A person of the other image comes along who has at least this share of his box in the area."""


class Area(NamedTuple):
    """Whole pixels of an image: left, top, and right and bottom just outside."""

    left: int
    top: int
    right: int
    bottom: int


def blend_weight(rng: np.random.Generator) -> float:
    """How much of the first image MixUp keeps: around a half."""
    return float(rng.beta(MIXUP_BETA, MIXUP_BETA))


def blend(image: ImageArray, other: ImageArray, weight: float) -> ImageArray:
    """Both at once, `weight` of the first."""
    mixed: ImageArray = cv2.addWeighted(image, weight, other, 1.0 - weight, 0.0)
    return mixed


def cut_area(
    box_xyxy_N4: NDArray[np.floating], other_box_xyxy_M4: NDArray[np.floating], imgsz: int, rng: np.random.Generator
) -> Area | None:
    """Where CutMix puts the other image: over nobody, and with somebody. None where three draws found no such place."""
    areas = [_random_area(imgsz, rng) for _ in range(CUTMIX_ATTEMPTS)]
    free = [area for area in areas if not (share_inside(box_xyxy_N4, area) > 0).any()]
    if not free:
        return None
    area = free[rng.integers(len(free))]
    return area if (share_inside(other_box_xyxy_M4, area) >= MIN_SHARE_IN_AREA).any() else None


def share_inside(box_xyxy_N4: NDArray[np.floating], area: Area) -> NDArray[np.floating]:
    """How much of each box lies in the area, 0 to 1."""
    low_N2 = np.maximum(box_xyxy_N4[:, :2], (area.left, area.top))
    high_N2 = np.minimum(box_xyxy_N4[:, 2:], (area.right, area.bottom))
    inside_N = np.maximum(high_N2 - low_N2, 0).prod(axis=1)
    shares_N: NDArray[np.floating] = inside_N / ((box_xyxy_N4[:, 2:] - box_xyxy_N4[:, :2]).prod(axis=1) + 1e-7)
    return shares_N


def _random_area(imgsz: int, rng: np.random.Generator) -> Area:
    side = int(imgsz * np.sqrt(1.0 - rng.beta(CUTMIX_BETA, CUTMIX_BETA)))
    x, y = rng.integers(imgsz, size=2).tolist()
    corners = (x - side // 2, y - side // 2, x + side // 2, y + side // 2)
    return Area(*(min(max(corner, 0), imgsz) for corner in corners))
