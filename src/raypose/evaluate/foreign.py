"""COCO's and CrowdPose's numbers for results that any program wrote: a results file against an annotation file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from raypose.evaluate import crowdpose
from raypose.evaluate.coco import AREAS, POSE_MAX_DETECTIONS, precision_recall
from raypose.evaluate.coco_files import Annotations, read_annotations, read_results
from raypose.evaluate.matching import compare_poses
from raypose.evaluate.pose_metrics import Protocol, coco_metrics, crowdpose_metrics
from raypose.evaluate.records import Float64Array
from raypose.evaluate.sigmas import sigmas_of
from raypose.structures import Skeleton

COCO_NAMES = {
    "pose_ap": "AP", "pose_ap50": "AP50", "pose_ap75": "AP75", "pose_ap_m": "APm", "pose_ap_l": "APl",
    "pose_ar": "AR", "pose_ar50": "AR50", "pose_ar75": "AR75", "pose_ar_m": "ARm", "pose_ar_l": "ARl",
}  # fmt: skip
"""What COCO's own tools call the metrics that raypose calls pose_*."""
CROWDPOSE_NAMES = {
    "pose_ap": "AP", "pose_ap50": "AP50", "pose_ap75": "AP75", "pose_ar": "AR", "pose_ar50": "AR50",
    "pose_ar75": "AR75", "pose_ap_easy": "APeasy", "pose_ap_medium": "APmedium", "pose_ap_hard": "APhard",
}  # fmt: skip


def evaluate_files(
    predictions: Path, annotations: Path, *, protocol: Protocol = "coco", sigmas: Sequence[float] | None = None
) -> dict[str, float]:
    """AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm and ARl as pycocotools computes them; -1 where undefined.

    CrowdPose's protocol has APeasy, APmedium and APhard in place of APm, APl, ARm and ARl. `predictions` is a list of
    {image_id, category_id, keypoints: 3K numbers, score}, `annotations` a COCO keypoint file. OKS sigmas are those
    given, else the category's own, else the protocol's if the number of keypoints is its own, else 1/K with a warning.
    Raises DataError that names the file, the entry and what is wrong with it.
    """
    labels = read_annotations(annotations)
    found = read_results(predictions, labels)
    sigmas_K, _ = sigmas_of(_with_sigmas(labels.skeleton, protocol, sigmas))
    truth = labels.truth if protocol == "coco" else crowdpose.with_areas_by_box(labels.truth)
    comparison = compare_poses(truth, found, sigmas_K, POSE_MAX_DETECTIONS)
    classes, void_M = len(labels.classes), labels.void_M
    areas = AREAS if protocol == "coco" else {"all": AREAS["all"]}
    pose = precision_recall(comparison, truth.ignore_pose_M, classes=classes, areas=areas, void_M=void_M)
    if protocol == "coco":
        metrics, names = coco_metrics(pose), COCO_NAMES
    else:
        levels = crowdpose.by_crowding(comparison, _crowd_index(labels), classes=classes, void_M=void_M)
        metrics, names = crowdpose_metrics(pose, levels), CROWDPOSE_NAMES
    return {theirs: -1.0 if math.isnan(metrics[ours]) else metrics[ours] for ours, theirs in names.items()}


def _with_sigmas(skeleton: Skeleton, protocol: Protocol, sigmas: Sequence[float] | None) -> Skeleton:
    if sigmas is not None:
        return replace(skeleton, sigmas=tuple(sigmas))
    if protocol == "crowdpose" and skeleton.sigmas is None and skeleton.keypoints == len(crowdpose.SIGMAS):
        return replace(skeleton, sigmas=crowdpose.SIGMAS)
    return skeleton


def _crowd_index(labels: Annotations) -> Float64Array:
    """The file's own index of each image, and the one that its labels come to where it states none."""
    stated_I = labels.crowd_index_I
    return np.where(np.isnan(stated_I), crowdpose.crowd_index(labels.truth, len(stated_I)), stated_I)
