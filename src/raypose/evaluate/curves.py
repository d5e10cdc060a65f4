"""Precision, recall and F1 against the confidence threshold, and the threshold with the best F1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raypose.evaluate.coco import AREAS, verdicts
from raypose.evaluate.matching import Comparison, match
from raypose.evaluate.records import Float64Array
from raypose.structures import BoolArray, IntArray

CURVE_OKS = 0.5
"""OKS from which a prediction counts as right in these curves."""
CONFIDENCES = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True)
class ConfidenceCurves:
    """What remains of precision, recall and F1 when only predictions of at least this confidence are kept.

    All classes together. Precision is NaN where nothing is kept, everything is NaN where nobody is labelled.
    `best_*` are taken at the confidence with the highest F1 among the scores that occur; of equals the highest.
    """

    confidence_X: Float64Array
    precision_X: Float64Array
    recall_X: Float64Array
    f1_X: Float64Array
    best_confidence: float
    best_precision: float
    best_recall: float
    best_f1: float


def right_and_wrong(comparison: Comparison) -> tuple[BoolArray, BoolArray]:
    """Which predictions are true and which are false positives at OKS 0.5, with COCO's matching and ignore rules.

    Neither are those that hit an ignored person and those beyond the best of an image that take part.
    """
    truth, found, ranked = comparison.truth, comparison.found, comparison.pairs.ranked
    matched_PT = match(comparison, np.array([CURVE_OKS]), truth.ignore_pose_M)
    low, high = AREAS["all"]
    elsewhere_P = (found.area_P < low) | (found.area_P > high)
    true_PT, false_PT = verdicts(matched_PT, truth.ignore_pose_M, elsewhere_P)
    takes_part_P = np.zeros(len(found), np.bool_)
    takes_part_P[ranked] = True
    return true_PT[:, 0] & takes_part_P, false_PT[:, 0] & takes_part_P


def confidence_curves(comparison: Comparison, right_P: BoolArray, wrong_P: BoolArray) -> ConfidenceCurves:
    """Curves from what `right_and_wrong` says of each prediction."""
    truth, found, order = comparison.truth, comparison.found, comparison.pairs.ranked
    hits: IntArray = np.cumsum(right_P[order], dtype=np.int64)
    kept: IntArray = hits + np.cumsum(wrong_P[order], dtype=np.int64)
    people = int(np.count_nonzero(~truth.ignore_pose_M))
    score = found.score_P[order]
    # A threshold keeps all predictions of one score or none: look only behind the last of equals.
    last = np.flatnonzero(np.diff(score, append=-np.inf))
    precision, recall, f1 = _rates(hits[last], kept[last], people)
    count_X = np.searchsorted(-score, -CONFIDENCES, side="right")
    precision_X, recall_X, f1_X = _rates(np.append(0, hits)[count_X], np.append(0, kept)[count_X], people)
    best = int(np.argmax(f1)) if len(last) and people else None
    return ConfidenceCurves(
        confidence_X=CONFIDENCES,
        precision_X=precision_X,
        recall_X=recall_X,
        f1_X=f1_X,
        best_confidence=float("nan") if best is None else float(score[last[best]]),
        best_precision=float("nan") if best is None else float(precision[best]),
        best_recall=(0.0 if people else float("nan")) if best is None else float(recall[best]),
        best_f1=(0.0 if people else float("nan")) if best is None else float(f1[best]),
    )


def _rates(hits: IntArray, kept: IntArray, people: int) -> tuple[Float64Array, Float64Array, Float64Array]:
    if not people:
        undefined = np.full(len(hits), np.nan)
        return undefined, undefined, undefined
    precision = np.divide(hits, kept, out=np.full(len(hits), np.nan), where=kept > 0)
    return precision, hits / people, 2 * hits / (kept + people)
