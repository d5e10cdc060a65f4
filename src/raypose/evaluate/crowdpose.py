"""CrowdPose's variant of AP: areas by box, no ranges of size, and images apart by how crowded they are.

Li and others, "CrowdPose: Efficient Crowded Scenes Pose Estimation and a New Benchmark", CVPR 2019.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from raypose.evaluate.coco import AREAS, PrecisionRecall, precision_recall
from raypose.evaluate.matching import Comparison
from raypose.evaluate.records import Float64Array, Truth, box_area
from raypose.structures import AREA_PER_BOX, BoolArray, IntArray

SIGMAS = (0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079)
"""Of CrowdPose's 14 keypoints: shoulders, elbows, wrists, hips, knees and ankles, left before right; head, neck."""
LEVELS = {"easy": (0.0, 0.2), "medium": (0.2, 0.8), "hard": (0.8, np.inf)}
"""Crowd index of an image, from the first value up to the second."""


def with_areas_by_box(truth: Truth) -> Truth:
    """The same people, whose area is 0.53 of their box whatever was measured."""
    return replace(truth, area_M=AREA_PER_BOX * box_area(truth.box_xyxy_M4))


def crowd_index(truth: Truth, images: int) -> Float64Array:
    """For each image, the mean over its people of others' keypoints inside their box, for each one of their own.

    People who are ignored or have no labelled keypoint are not asked, and images without anybody else have 0.
    """
    index_I = np.zeros(images)
    labelled_MK = truth.labelled()
    order = np.argsort(truth.image_M, kind="stable")
    bounds = np.searchsorted(truth.image_M[order], np.arange(images + 1))
    for image in range(images):
        members = order[bounds[image] : bounds[image + 1]]
        members = members[~truth.ignore_pose_M[members]]
        if len(members):
            index_I[image] = _intrusion(truth, labelled_MK, members).mean()
    return index_I


def _intrusion(truth: Truth, labelled_MK: BoolArray, members: IntArray) -> Float64Array:
    """For each of an image's people, others' labelled keypoints inside the box over the number of their own."""
    xy_NK2 = truth.keypoints_MK3[members, :, :2]
    box_N4 = truth.box_xyxy_M4[members]
    # Row i, column j, K: does a keypoint of person j lie inside the box of person i?
    above_NNK2 = xy_NK2[None] >= box_N4[:, None, None, :2]
    below_NNK2 = xy_NK2[None] <= box_N4[:, None, None, 2:]
    inside_NNK = (above_NNK2 & below_NNK2).all(axis=-1) & labelled_MK[members][None]
    inside_NN = inside_NNK.sum(axis=-1)
    others_N = inside_NN.sum(axis=1) - np.diagonal(inside_NN)
    intrusion_N: Float64Array = others_N / labelled_MK[members].sum(axis=1)
    return intrusion_N


def by_crowding(
    comparison: Comparison, crowd_index_I: Float64Array, *, classes: int, void_M: BoolArray | None = None
) -> dict[str, PrecisionRecall]:
    """Precision and recall of easy, medium and hard images apart."""
    return {
        level: precision_recall(
            comparison,
            comparison.truth.ignore_pose_M,
            classes=classes,
            areas={"all": AREAS["all"]},
            images_I=(low <= crowd_index_I) & (crowd_index_I < high),
            void_M=void_M,
        )
        for level, (low, high) in LEVELS.items()
    }
