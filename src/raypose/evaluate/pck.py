"""PCK, the share of labelled keypoints that are predicted close enough, and how far off they are.

A prediction answers for a person when their boxes overlap: predictions choose in order of falling score, each the
free person with the highest box IoU of at least 0.5. Boxes and not OKS decide, so that a badly posed person is not
left out of the count. Keypoints of people whom no prediction answers for are missed: they lower PCK, but have no error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raypose.evaluate.matching import Comparison, match
from raypose.evaluate.records import Float64Array, Found, Truth
from raypose.structures import BoolArray, IntArray, Skeleton

MATCH_IOU = 0.5
ROW_THRESHOLD = 0.10
"""Fraction of the box side within which a keypoint of a per-keypoint row is right."""
AUC_THRESHOLDS = np.linspace(0.01, 0.20, 20)
"""PCK by box is averaged over these thresholds."""
TORSO = (("left_shoulder", "right_hip"), ("right_shoulder", "left_hip"))
HEAD = (("head_top", "neck"), ("head_top", "upper_neck"), ("top_head", "neck"))
"""Names of the keypoints whose distance is the length of a torso or head. The first pair the skeleton has is used."""
VISIBLE, OCCLUDED = 2, 1


@dataclass(frozen=True, slots=True)
class KeypointRow:
    """How well one keypoint is found, NaN where there is nothing to average.

    PCK counts keypoints within 0.10 of the longer side of the person's box. Errors are means over the keypoints of
    people who were found: in pixels, and as a fraction of that side ("box").
    """

    name: str
    labelled: int
    visible: int
    occluded: int
    found: int
    pck: float
    pck_visible: float
    pck_occluded: float
    error_px: float
    error_visible_px: float
    error_occluded_px: float
    error_box: float
    error_visible_box: float
    error_occluded_box: float


@dataclass(frozen=True, slots=True)
class KeypointAccuracy:
    """Figures over all keypoints, under their metric names, a row per keypoint, and PCK against its threshold.

    `by_box_MK` is the distance of each keypoint as a fraction of the longer side of its person's box, infinite for
    people whom no prediction answers for.
    """

    metrics: dict[str, float]
    rows: tuple[KeypointRow, ...]
    threshold_X: Float64Array
    pck_X: Float64Array
    by_box_MK: Float64Array


def keypoint_accuracy(truth: Truth, found: Found, answer_M: IntArray, skeleton: Skeleton) -> KeypointAccuracy:
    """PCK and errors, where `answer_M` is the prediction that answers for each person, -1 for none."""
    counted_M = ~truth.ignore_pose_M
    code_MK = truth.keypoints_MK3[:, :, 2] * counted_M[:, None]
    distance_MK = distances(truth, found, answer_M)
    by_box_MK = normalise(distance_MK, box_side(truth))
    labelled_MK = code_MK > 0
    pck_X = pck_curve(by_box_MK, labelled_MK, AUC_THRESHOLDS)
    metrics = {
        "pck_box_05": _pck(by_box_MK, labelled_MK, 0.05),
        "pck_box_10": _pck(by_box_MK, labelled_MK, 0.10),
        "pck_box_20": _pck(by_box_MK, labelled_MK, 0.20),
        "pck_auc": float(pck_X.mean()),
        "keypoint_error_px": _mean_error(distance_MK, labelled_MK),
        "keypoint_error_box": _mean_error(by_box_MK, labelled_MK),
    }
    for part, percent, choices in (("torso", 20, TORSO), ("head", 50, HEAD)):
        ends = named_pair(skeleton, choices)
        if ends is not None:
            length_M = span(truth, ends)
            measurable_MK = labelled_MK & (length_M > 0)[:, None]
            thresholds = np.arange(1, percent + 1) / 100
            part_X = pck_curve(normalise(distance_MK, length_M), measurable_MK, thresholds)
            metrics |= {f"pck_{part}_{percent}": float(part_X[-1]), f"pck_{part}_auc": float(part_X.mean())}
    rows = tuple(_row(name, code_MK[:, k], distance_MK[:, k], by_box_MK[:, k]) for k, name in enumerate(skeleton.names))
    return KeypointAccuracy(metrics, rows, AUC_THRESHOLDS, pck_X, by_box_MK)


def answers(by_box: Comparison) -> tuple[IntArray, IntArray]:
    """The person whom each prediction answers for (P), and the prediction that answers for each person (M); -1: none.

    `by_box` is a comparison by box IoU.
    """
    person_P = match(by_box, np.array([MATCH_IOU]), by_box.truth.ignore_pose_M)[:, 0]
    answer_M = np.full(len(by_box.truth), -1, np.int64)
    hit = np.flatnonzero(person_P >= 0)
    answer_M[person_P[hit]] = hit
    return person_P, answer_M


def named_pair(skeleton: Skeleton, choices: tuple[tuple[str, str], ...]) -> tuple[int, int] | None:
    """Indices of the first of the named pairs that the skeleton has."""
    for first, second in choices:
        if first in skeleton.names and second in skeleton.names:
            return skeleton.names.index(first), skeleton.names.index(second)
    return None


def distances(truth: Truth, found: Found, answer_M: IntArray) -> Float64Array:
    """Pixels between labelled and predicted keypoints, infinite for people nobody answers for."""
    distance_MK = np.full(truth.keypoints_MK3.shape[:2], np.inf)
    hit = np.flatnonzero(answer_M >= 0)
    offset = found.xy_PK2[answer_M[hit]] - truth.keypoints_MK3[hit, :, :2]
    distance_MK[hit] = np.hypot(offset[:, :, 0], offset[:, :, 1])
    return distance_MK


def box_side(truth: Truth) -> Float64Array:
    """Pixels of the longer side of each person's box."""
    size_M2 = truth.box_xyxy_M4[:, 2:] - truth.box_xyxy_M4[:, :2]
    side_M: Float64Array = size_M2.max(axis=1, initial=0.0)
    return side_M


def span(truth: Truth, ends: tuple[int, int]) -> Float64Array:
    """Pixels between two labelled keypoints of each person, NaN where one of them is not labelled."""
    first, second = ends
    offset_M2 = truth.keypoints_MK3[:, first, :2] - truth.keypoints_MK3[:, second, :2]
    both_M = truth.labelled()[:, [first, second]].all(axis=1)
    return np.where(both_M, np.hypot(offset_M2[:, 0], offset_M2[:, 1]), np.nan)


def normalise(distance_MK: Float64Array, length_M: Float64Array) -> Float64Array:
    """Distances as a fraction of each person's length, infinite where it is zero or unknown."""
    length_MK = np.broadcast_to(length_M[:, None], distance_MK.shape)
    relative_MK = np.full(distance_MK.shape, np.inf)
    np.divide(distance_MK, length_MK, out=relative_MK, where=length_MK > 0)
    return relative_MK


def pck_curve(relative: Float64Array, counted: BoolArray, thresholds_X: Float64Array) -> Float64Array:
    """The share of counted keypoints within each threshold, NaN where none counts."""
    measured = relative[counted]
    return np.array([_share_within(measured, threshold) for threshold in thresholds_X])


def _pck(relative: Float64Array, counted: BoolArray, threshold: float) -> float:
    return _share_within(relative[counted], threshold)


def _share_within(measured: Float64Array, threshold: float) -> float:
    return float(np.count_nonzero(measured <= threshold) / len(measured)) if len(measured) else float("nan")


def _mean_error(error: Float64Array, counted: BoolArray) -> float:
    measured = error[counted & np.isfinite(error)]
    return float(np.mean(measured)) if measured.size else float("nan")


def _row(name: str, code_M: Float64Array, distance_M: Float64Array, by_box_M: Float64Array) -> KeypointRow:
    labelled_M, visible_M, occluded_M = code_M > 0, code_M == VISIBLE, code_M == OCCLUDED
    return KeypointRow(
        name=name,
        labelled=int(labelled_M.sum()),
        visible=int(visible_M.sum()),
        occluded=int(occluded_M.sum()),
        found=int((labelled_M & np.isfinite(distance_M)).sum()),
        pck=_pck(by_box_M, labelled_M, ROW_THRESHOLD),
        pck_visible=_pck(by_box_M, visible_M, ROW_THRESHOLD),
        pck_occluded=_pck(by_box_M, occluded_M, ROW_THRESHOLD),
        error_px=_mean_error(distance_M, labelled_M),
        error_visible_px=_mean_error(distance_M, visible_M),
        error_occluded_px=_mean_error(distance_M, occluded_M),
        error_box=_mean_error(by_box_M, labelled_M),
        error_visible_box=_mean_error(by_box_M, visible_M),
        error_occluded_box=_mean_error(by_box_M, occluded_M),
    )
