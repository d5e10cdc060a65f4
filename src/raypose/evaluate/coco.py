"""Average precision and recall exactly as COCO computes them, for keypoints (by OKS) and for boxes (by IoU).

Definition: https://cocodataset.org/#keypoints-eval. The tests hold the numbers to pycocotools'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raypose.evaluate.matching import Comparison, match
from raypose.evaluate.records import Float64Array
from raypose.structures import BoolArray, IntArray

THRESHOLDS_T = np.linspace(0.5, 0.95, 10)
"""OKS or IoU from which a match counts."""
RECALLS_R = np.linspace(0.0, 1.0, 101)
"""Recall levels at which precision is averaged."""
AREAS = {"all": (0.0, 1e10), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Square pixels of a person's segment, ends included. COCO has no small people with keypoints."""
POSE_MAX_DETECTIONS = 20
BOX_MAX_DETECTIONS = 100


@dataclass(frozen=True, slots=True)
class PrecisionRecall:
    """Interpolated precision and final recall for each area range and class, NaN where no person counts."""

    precision_ACTR: Float64Array
    recall_ACT: Float64Array

    def ap(self, area: str = "all", threshold: float | None = None, of_class: int | None = None) -> float:
        """Mean precision over recall levels, over classes with people and, unless one is given, over thresholds."""
        return _mean(self.precision_ACTR[_select(area, threshold, of_class)])

    def ar(self, area: str = "all", threshold: float | None = None, of_class: int | None = None) -> float:
        """Mean recall over classes with people and, unless one is given, over thresholds."""
        return _mean(self.recall_ACT[_select(area, threshold, of_class)])


def precision_recall(
    comparison: Comparison,
    ignore_M: BoolArray,
    *,
    classes: int,
    areas: Mapping[str, tuple[float, float]] = AREAS,
    images_I: BoolArray | None = None,
    void_M: BoolArray | None = None,
) -> PrecisionRecall:
    """Match and accumulate for each area range. People in `ignore_M` neither count nor cost.

    `images_I` marks the only images to look at. Being matched with people in `void_M` counts as being matched with
    nobody, which is how pycocotools takes an annotation whose id is 0.
    """
    truth, found, ranked = comparison.truth, comparison.found, comparison.pairs.ranked
    precision_ACTR = np.full((len(areas), classes, len(THRESHOLDS_T), len(RECALLS_R)), np.nan)
    recall_ACT = np.full((len(areas), classes, len(THRESHOLDS_T)), np.nan)
    counted_M = np.ones(len(truth), np.bool_)
    if images_I is not None:
        ranked, counted_M = ranked[images_I[found.image_P[ranked]]], images_I[truth.image_M]
    order_C = [ranked[found.class_P[ranked] == c] for c in range(classes)]
    for a, (low, high) in enumerate(areas.values()):
        ignored_M = ignore_M | (truth.area_M < low) | (truth.area_M > high)
        matched_PT = match(comparison, THRESHOLDS_T, ignored_M)
        elsewhere_P = (found.area_P < low) | (found.area_P > high)
        true_PT, false_PT = verdicts(matched_PT, ignored_M, elsewhere_P, void_M)
        for c, order in enumerate(order_C):
            people = int(np.count_nonzero(counted_M & ~ignored_M & (truth.class_M == c)))
            if people:
                precision_ACTR[a, c], recall_ACT[a, c] = _accumulate(true_PT[order], false_PT[order], people)
    return PrecisionRecall(precision_ACTR, recall_ACT)


def verdicts(
    matched_PT: IntArray, ignored_M: BoolArray, elsewhere_P: BoolArray, void_M: BoolArray | None = None
) -> tuple[BoolArray, BoolArray]:
    """True and false positives. Neither: matched with an ignored person, or unmatched and of another size."""
    hit_PT = matched_PT >= 0
    if void_M is not None:
        hit_PT &= ~np.append(void_M, False)[matched_PT]
    # One more entry answers for index -1, so that the look-up also works where nobody is labelled.
    spared_PT = np.append(ignored_M, False)[matched_PT] | (~hit_PT & elsewhere_P[:, None])
    return hit_PT & ~spared_PT, ~hit_PT & ~spared_PT


def _accumulate(true_PT: BoolArray, false_PT: BoolArray, people: int) -> tuple[Float64Array, Float64Array]:
    """Interpolated precision (T, R) and final recall (T) of predictions in order of falling score."""
    precision_TR, recall_T = np.zeros((len(THRESHOLDS_T), len(RECALLS_R))), np.zeros(len(THRESHOLDS_T))
    for t in range(len(THRESHOLDS_T)):
        # Recall rises and precision peaks only at hits, so nothing in between can show in the envelope.
        hit = np.flatnonzero(true_PT[:, t])
        if not hit.size:
            continue
        counted = np.cumsum(true_PT[:, t] | false_PT[:, t])[hit]
        hits = np.arange(1, len(hit) + 1)
        envelope = np.maximum.accumulate((hits / (counted + np.spacing(1)))[::-1])[::-1]
        index_R = np.searchsorted(hits / people, RECALLS_R, side="left")
        reached_R = index_R < len(hit)
        precision_TR[t, reached_R] = envelope[index_R[reached_R]]
        recall_T[t] = len(hit) / people
    return precision_TR, recall_T


def _select(area: str, threshold: float | None, of_class: int | None) -> tuple[int | slice, ...]:
    t = slice(None) if threshold is None else int(np.flatnonzero(np.isclose(THRESHOLDS_T, threshold))[0])
    return list(AREAS).index(area), slice(None) if of_class is None else of_class, t


def _mean(values: Float64Array) -> float:
    defined = values[~np.isnan(values)]
    return float(np.mean(defined)) if defined.size else float("nan")
