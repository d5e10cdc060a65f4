"""CrowdPose: COCO's JSON with 14 keypoints, a crowd index for each image, and a skeleton that is not its own."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from raypose.data.importers.coco import coco_source, load_coco
from raypose.data.importers.source import LabelledSource
from raypose.errors import DataError
from raypose.structures import Skeleton

CROWDPOSE_PERSON = Skeleton(
    names=(
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip",
        "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "top_head", "neck",
    ),
    edges=(
        (10, 8), (8, 6), (11, 9), (9, 7), (6, 7), (0, 6), (1, 7), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (12, 13),
        (1, 13), (0, 13),
    ),
    flip_pairs=((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
    sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
)  # fmt: skip
"""CrowdPose's 14 keypoints with the sigmas of its evaluation. What its JSON calls head is the top of the head."""

_HEAD = "head"
_LEVELS = (("easy", 0.2), ("medium", 0.8), ("hard", math.inf))
"""Names of CrowdPose's three kinds of images, with the crowd index below which each is, as its evaluation has it."""


def read_crowdpose(annotations: str | Path, images: str | Path) -> LabelledSource:
    """Every image that the JSON lists, as `read_coco` reads it, with CrowdPose's own skeleton.

    The JSON's `skeleton` is COCO's, of 17 keypoints, and means nothing here. It states no areas: evaluation takes
    0.53 of the box, as CrowdPose's own does.
    """
    raw, where = load_coco(annotations)
    skeleton = CROWDPOSE_PERSON
    for category in raw["categories"]:
        stated = category.get("keypoints")
        names = ["top_head" if name == _HEAD else name for name in stated] if isinstance(stated, list) else []
        if names != list(skeleton.names):
            raise DataError(
                f"{where}: keypoints {str(stated)[:120]}, expected CrowdPose's {skeleton.keypoints};"
                " import other files with 'data import coco'"
            )
        category["keypoints"] = names
        category["skeleton"] = [(start + 1, end + 1) for start, end in skeleton.edges]
        category["sigmas"] = list(skeleton.sigmas or ())
    source = coco_source(raw, where, images)
    return LabelledSource(
        source.skeleton, source.class_names, source.images, source.read, (*source.notes, *_crowding(raw["images"]))
    )


def _crowding(images: list[dict[str, Any]]) -> list[str]:
    stated = (image.get("crowdIndex") for image in images)
    indices = [float(index) for index in stated if isinstance(index, int | float)]
    if not indices:
        return []
    levels = Counter(next(name for name, limit in _LEVELS if not index >= limit) for index in indices)
    found = ", ".join(f"{levels[name]:,} {name}" for name, _ in _LEVELS)
    return [f"crowd index: {found} images, as the file states it; validation computes it from the people"]
