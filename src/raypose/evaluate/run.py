"""All numbers of a validation: what was labelled and predicted goes in, one Evaluation comes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from raypose.errors import DataError
from raypose.evaluate import coco
from raypose.evaluate.coco import AREAS, PrecisionRecall, precision_recall
from raypose.evaluate.curves import CURVE_OKS, ConfidenceCurves, confidence_curves
from raypose.evaluate.error_kinds import ErrorKind, error_kinds
from raypose.evaluate.matching import compare_boxes, compare_poses, match
from raypose.evaluate.pck import MATCH_IOU, KeypointRow, answers, keypoint_accuracy
from raypose.evaluate.records import Float64Array, Truth, collect
from raypose.evaluate.sigmas import sigmas_of
from raypose.structures import ImageResult, Skeleton


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
    """Everything a report plots. `precision_TR` is COCO's interpolated precision, the mean over classes."""

    by_confidence: ConfidenceCurves
    threshold_T: Float64Array
    recall_R: Float64Array
    precision_TR: Float64Array
    pck_threshold_X: Float64Array
    pck_X: Float64Array


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of a validation. `metrics` has one flat name for each number, NaN where it is undefined."""

    metrics: dict[str, float]
    per_keypoint: tuple[KeypointRow, ...]
    per_class: tuple[ClassRow, ...]
    error_kinds: tuple[ErrorKind, ...]
    curves: Curves
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain builtins for JSON; undefined numbers become None."""
        plain = _plain(asdict(self))
        assert isinstance(plain, dict)
        return plain


def evaluate(results: Sequence[ImageResult], skeleton: Skeleton, class_names: Sequence[str]) -> Evaluation:
    """Measure predictions against labels. Independent of the order of `results`, to the last bit.

    Raises DataError for an empty or repeated image set and for keypoints or classes that do not fit.
    """
    if not results:
        raise DataError("evaluation: no images; give it at least one validated image")
    truth, found = collect(results, skeleton, len(class_names))
    sigmas_K, note = sigmas_of(skeleton)

    by_pose = compare_poses(truth, found, sigmas_K, coco.POSE_MAX_DETECTIONS)
    pose = precision_recall(by_pose, truth.ignore_pose_M, classes=len(class_names))
    by_confidence = confidence_curves(by_pose)

    by_box = compare_boxes(truth, found, coco.BOX_MAX_DETECTIONS)
    box = precision_recall(by_box, truth.ignore_box_M, classes=len(class_names), areas={"all": AREAS["all"]})
    person_P = match(by_box, np.array([MATCH_IOU]), truth.ignore_pose_M)[:, 0]
    accuracy = keypoint_accuracy(truth, found, answers(person_P, len(truth)), skeleton)
    errors = error_kinds(
        by_pose,
        by_box,
        person_P,
        skeleton=skeleton,
        sigmas_K=sigmas_K,
        classes=len(class_names),
        pose_ap=pose.ap(),
    )

    metrics = pose_metrics(pose) | {
        "box_ap": box.ap(),
        "box_ap50": box.ap(threshold=0.5),
        "box_ap75": box.ap(threshold=0.75),
        "precision": by_confidence.best_precision,
        "recall": by_confidence.best_recall,
        "f1": by_confidence.best_f1,
        "best_f1_conf": by_confidence.best_confidence,
        **accuracy.metrics,
        "images": float(len(results)),
        "people": float(np.count_nonzero(~truth.ignore_pose_M)),
    }
    curves = Curves(
        by_confidence,
        coco.THRESHOLDS_T,
        coco.RECALLS_R,
        _mean_over_classes(pose.precision_ACTR[list(AREAS).index("all")]),
        accuracy.threshold_X,
        accuracy.pck_X,
    )
    return Evaluation(
        metrics=metrics,
        per_keypoint=accuracy.rows,
        per_class=_class_rows(class_names, truth, pose, box),
        error_kinds=errors,
        curves=curves,
        notes=_notes(note, truth, by_confidence),
    )


def pose_metrics(pose: PrecisionRecall) -> dict[str, float]:
    """COCO's ten keypoint numbers under raypose's names."""
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


def _notes(sigmas_note: str | None, truth: Truth, by_confidence: ConfidenceCurves) -> tuple[str, ...]:
    notes = [] if sigmas_note is None else [sigmas_note]
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
