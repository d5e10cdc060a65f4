"""Poses in the words that users read: as JSON of an answer, and as lines of predictions."""

from __future__ import annotations

from typing import Any

import numpy as np

from raypose.structures import Poses, Skeleton


def describe_people(
    poses: Poses, skeleton: Skeleton, class_names: tuple[str, ...], keypoint_conf: float = 0.0
) -> list[dict[str, Any]]:
    """The people of one image, best first, in its pixels. Keypoints less sure than `keypoint_conf` are left out."""
    box_N4 = np.round(poses.box_xyxy_N4.astype(np.float64), 2).tolist()
    score_N = np.round(poses.score_N.astype(np.float64), 4).tolist()
    xy_NK2 = np.round(poses.keypoints_NK3[..., :2].astype(np.float64), 2).tolist()
    sure_NK = np.round(poses.keypoints_NK3[..., 2].astype(np.float64), 4).tolist()
    return [
        {
            "box": box_4,
            "score": score,
            "class": class_names[class_index],
            "keypoints": [
                {"name": name, "x": x, "y": y, "confidence": sure}
                for name, (x, y), sure in zip(skeleton.names, xy_K2, sure_K, strict=True)
                if sure >= keypoint_conf
            ],
        }
        for box_4, score, class_index, xy_K2, sure_K in zip(
            box_N4, score_N, poses.class_N.tolist(), xy_NK2, sure_NK, strict=True
        )
    ]
