"""All numbers of a validation: what was labelled and predicted goes in, one Evaluation comes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from raypose.errors import DataError
from raypose.evaluate import coco, crowdpose
from raypose.evaluate.calibration import KEYPOINT_THRESHOLD, Calibration, calibrate
from raypose.evaluate.coco import AREAS, PrecisionRecall, precision_recall
from raypose.evaluate.confusion import confusion
from raypose.evaluate.curves import CURVE_OKS, ConfidenceCurves, confidence_curves, right_and_wrong
from raypose.evaluate.error_kinds import ErrorKind, classify, error_kinds
from raypose.evaluate.figure import Figure
from raypose.evaluate.image_scores import ImageScores, image_scores, working_confidence
from raypose.evaluate.matching import Comparison, compare_boxes, compare_poses
from raypose.evaluate.pck import KeypointAccuracy, KeypointRow, answers, keypoint_accuracy
from raypose.evaluate.pose_metrics import Protocol, coco_metrics, crowdpose_metrics
from raypose.evaluate.records import Float64Array, Truth, collect
from raypose.evaluate.sigmas import sigmas_of
from raypose.structures import ImageResult, IntArray, Skeleton

COUNTS = ("images", "people")
"""Metrics that are whole numbers."""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """AP of one class, NaN where none of its people counts."""

    name: str
    people: int
    pose_ap: float
    pose_ap50: float
    box_ap: float
    box_ap50: float


@dataclass(frozen=True, slots=True)
class Curves:
    """Everything a report plots. `precision_TR` is COCO's interpolated precision, the mean over classes.

    A person is right at OKS .50; a keypoint of a person who was found is right within .10 of the box.
    """

    by_confidence: ConfidenceCurves
    person_calibration: Calibration
    keypoint_calibration: Calibration
    threshold_T: Float64Array
    recall_R: Float64Array
    precision_TR: Float64Array
    pck_threshold_X: Float64Array
    pck_X: Float64Array


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of a validation. `metrics` has one flat name for each number, NaN where it is undefined.

    `confusion_CC` has the classes as labelled in its rows and as predicted in its columns, the last of both for nobody.
    `images` and `figures`, what validators drew, are for the report.
    """

    metrics: dict[str, float]
    per_keypoint: tuple[KeypointRow, ...]
    per_class: tuple[ClassRow, ...]
    error_kinds: tuple[ErrorKind, ...]
    curves: Curves
    notes: tuple[str, ...]
    confusion_CC: IntArray
    images: ImageScores
    figures: tuple[Figure, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain builtins for JSON, without images and figures; undefined numbers become None."""
        plain = _plain(asdict(replace(self, figures=())))
        assert isinstance(plain, dict)
        del plain["figures"], plain["images"]
        return plain


def evaluate(
    results: Sequence[ImageResult], skeleton: Skeleton, class_names: Sequence[str], *, protocol: Protocol = "coco"
) -> Evaluation:
    """Measure predictions against labels. Independent of the order of `results`, to the last bit.

    Raises DataError for an empty or repeated image set and for keypoints or classes that do not fit.
    """
    if not results:
        raise DataError("evaluation: no images; give it at least one validated image")
    classes = len(class_names)
    truth, found = collect(results, skeleton, classes)
    if protocol == "crowdpose":
        truth = crowdpose.with_areas_by_box(truth)
    sigmas_K, note = sigmas_of(skeleton)

    by_pose = compare_poses(truth, found, sigmas_K, coco.POSE_MAX_DETECTIONS)
    pose, pose_metrics = _pose(by_pose, protocol, classes=classes, images=len(results))
    by_box = compare_boxes(truth, found, coco.BOX_MAX_DETECTIONS)
    box = precision_recall(by_box, truth.ignore_box_M, classes=classes, areas={"all": AREAS["all"]})
    person_P, answer_M = answers(by_box)
    accuracy = keypoint_accuracy(truth, found, answer_M, skeleton)
    kinds_PK = classify(by_box, person_P, skeleton, sigmas_K)
    curves = _curves(by_pose, pose, answer_M, accuracy)
    confidence = working_confidence(curves.by_confidence)
    ids = [result.id for result in results]
    return Evaluation(
        metrics={
            **pose_metrics,
            **_box_metrics(box),
            **_confidence_metrics(curves),
            **accuracy.metrics,
            "images": len(results),
            "people": int(np.count_nonzero(~truth.ignore_pose_M)),
        },
        per_keypoint=accuracy.rows,
        per_class=_class_rows(class_names, truth, pose, box),
        error_kinds=error_kinds(by_pose, kinds_PK, person_P, sigmas_K=sigmas_K, classes=classes, pose_ap=pose.ap()),
        curves=curves,
        notes=_notes(note, truth, curves.by_confidence, protocol),
        confusion_CC=confusion(truth, found, classes=classes, confidence=confidence),
        images=image_scores(truth, found, person_P, kinds_PK, ids=ids, sigmas_K=sigmas_K, confidence=confidence),
    )


def _pose(
    by_pose: Comparison, protocol: Protocol, *, classes: int, images: int
) -> tuple[PrecisionRecall, dict[str, float]]:
    truth = by_pose.truth
    if protocol == "coco":
        pose = precision_recall(by_pose, truth.ignore_pose_M, classes=classes)
        return pose, coco_metrics(pose)
    pose = precision_recall(by_pose, truth.ignore_pose_M, classes=classes, areas={"all": AREAS["all"]})
    levels = crowdpose.by_crowding(by_pose, crowdpose.crowd_index(truth, images), classes=classes)
    return pose, crowdpose_metrics(pose, levels)


def _curves(by_pose: Comparison, pose: PrecisionRecall, answer_M: IntArray, accuracy: KeypointAccuracy) -> Curves:
    truth, found = by_pose.truth, by_pose.found
    right_P, wrong_P = right_and_wrong(by_pose)
    judged_P = right_P | wrong_P
    # Of all keypoints of predictions that answer for somebody: one that nobody labelled is wrong.
    person = np.flatnonzero((answer_M >= 0) & ~truth.ignore_pose_M)
    right = truth.labelled()[person] & (accuracy.by_box_MK[person] <= KEYPOINT_THRESHOLD)
    return Curves(
        by_confidence=confidence_curves(by_pose, right_P, wrong_P),
        person_calibration=calibrate(found.score_P[judged_P], right_P[judged_P]),
        keypoint_calibration=calibrate(found.visible_PK[answer_M[person]].ravel(), right.ravel()),
        threshold_T=coco.THRESHOLDS_T,
        recall_R=coco.RECALLS_R,
        precision_TR=_mean_over_classes(pose.precision_ACTR[list(AREAS).index("all")]),
        pck_threshold_X=accuracy.threshold_X,
        pck_X=accuracy.pck_X,
    )


def _box_metrics(box: PrecisionRecall) -> dict[str, float]:
    return {"box_ap": box.ap(), "box_ap50": box.ap(threshold=0.5), "box_ap75": box.ap(threshold=0.75)}


def _confidence_metrics(curves: Curves) -> dict[str, float]:
    return {
        "precision": curves.by_confidence.best_precision,
        "recall": curves.by_confidence.best_recall,
        "f1": curves.by_confidence.best_f1,
        "best_f1_conf": curves.by_confidence.best_confidence,
        "person_ece": curves.person_calibration.error,
        "keypoint_ece": curves.keypoint_calibration.error,
    }


def _class_rows(
    class_names: Sequence[str], truth: Truth, pose: PrecisionRecall, box: PrecisionRecall
) -> tuple[ClassRow, ...]:
    return tuple(
        ClassRow(
            name=name,
            people=int(np.count_nonzero(~truth.ignore_pose_M & (truth.class_M == c))),
            pose_ap=pose.ap(of_class=c),
            pose_ap50=pose.ap(threshold=0.5, of_class=c),
            box_ap=box.ap(of_class=c),
            box_ap50=box.ap(threshold=0.5, of_class=c),
        )
        for c, name in enumerate(class_names)
    )


def _mean_over_classes(precision_CTR: Float64Array) -> Float64Array:
    defined = precision_CTR[~np.isnan(precision_CTR[:, 0, 0])]
    mean_TR: Float64Array = defined.mean(axis=0) if len(defined) else precision_CTR[0]
    return mean_TR


def _notes(
    sigmas_note: str | None, truth: Truth, by_confidence: ConfidenceCurves, protocol: Protocol
) -> tuple[str, ...]:
    notes = [] if sigmas_note is None else [sigmas_note]
    if protocol == "crowdpose":
        notes.append("AP and AR follow CrowdPose: areas are 0.53 of the box; compare only with others of its kind")
    if truth.ignore_pose_M.all():
        notes.append("no labelled person counts, so AP, AR and PCK are undefined")
    if not math.isnan(by_confidence.best_confidence):
        notes.append(
            f"precision, recall and F1 are those at confidence {by_confidence.best_confidence:.3f}, which has the"
            f" best F1 on these very images (OKS {CURVE_OKS})"
        )
    return tuple(notes)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
