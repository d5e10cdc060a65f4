"""COCO's keypoint numbers for results that any program wrote: a results file against an annotation file."""

from __future__ import annotations

import math
from pathlib import Path

from raypose.evaluate.coco import POSE_MAX_DETECTIONS, precision_recall
from raypose.evaluate.coco_files import read_annotations, read_results
from raypose.evaluate.matching import compare_poses
from raypose.evaluate.run import pose_metrics
from raypose.evaluate.sigmas import sigmas_of

COCO_NAMES = {
    "pose_ap": "AP", "pose_ap50": "AP50", "pose_ap75": "AP75", "pose_ap_m": "APm", "pose_ap_l": "APl",
    "pose_ar": "AR", "pose_ar50": "AR50", "pose_ar75": "AR75", "pose_ar_m": "ARm", "pose_ar_l": "ARl",
}  # fmt: skip
"""What COCO's own tools call the metrics that raypose calls pose_*."""


def evaluate_files(predictions: Path, annotations: Path) -> dict[str, float]:
    """AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm and ARl as pycocotools computes them; -1 where undefined.

    `predictions` is a list of {image_id, category_id, keypoints: 3K numbers, score}, `annotations` a COCO keypoint
    file. OKS sigmas are the category's own `sigmas` if it states some, else COCO's for 17 keypoints, else 1/K with a
    warning. Raises DataError that names the file, the entry and what is wrong with it.
    """
    labels = read_annotations(annotations)
    found = read_results(predictions, labels)
    sigmas_K, _ = sigmas_of(labels.skeleton)
    comparison = compare_poses(labels.truth, found, sigmas_K, POSE_MAX_DETECTIONS)
    pose = precision_recall(comparison, labels.truth.ignore_pose_M, classes=len(labels.classes))
    metrics = pose_metrics(pose)
    return {theirs: -1.0 if math.isnan(metrics[ours]) else metrics[ours] for ours, theirs in COCO_NAMES.items()}
