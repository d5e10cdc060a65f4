"""The names under which pose AP and AR appear, for each protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from raypose.evaluate.coco import PrecisionRecall

Protocol = Literal["coco", "crowdpose"]
"""Whose rules AP and AR follow: how large a person is, and which people or images are looked at apart."""


def coco_metrics(pose: PrecisionRecall) -> dict[str, float]:
    """COCO's ten keypoint numbers."""
    return {
        "pose_ap": pose.ap(),
        "pose_ap50": pose.ap(threshold=0.5),
        "pose_ap75": pose.ap(threshold=0.75),
        "pose_ap_m": pose.ap("medium"),
        "pose_ap_l": pose.ap("large"),
        "pose_ar": pose.ar(),
        "pose_ar50": pose.ar(threshold=0.5),
        "pose_ar75": pose.ar(threshold=0.75),
        "pose_ar_m": pose.ar("medium"),
        "pose_ar_l": pose.ar("large"),
    }


def crowdpose_metrics(pose: PrecisionRecall, levels: Mapping[str, PrecisionRecall]) -> dict[str, float]:
    """CrowdPose's nine keypoint numbers: no ranges of size, but AP of images that are more or less crowded."""
    return {
        "pose_ap": pose.ap(),
        "pose_ap50": pose.ap(threshold=0.5),
        "pose_ap75": pose.ap(threshold=0.75),
        "pose_ar": pose.ar(),
        "pose_ar50": pose.ar(threshold=0.5),
        "pose_ar75": pose.ar(threshold=0.75),
        **{f"pose_ap_{level}": subset.ap() for level, subset in levels.items()},
    }
