"""OKS sigmas from how far annotators disagree, the way COCO got its own.

COCO had images labelled again and took sigma² = E[d² / s²], d a label's distance from where the keypoint is and s² the
person's area. Where it is, nobody knows. But the squared distance between two independent labels of one keypoint is on
average the sum of both their squared errors, so sigma² is half the mean of the former over s². One labelling of each
image does not hold this number: how keypoints spread over people tells how people move, not how well they are labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from raypose.errors import DataError
from raypose.evaluate.coco_files import Annotations
from raypose.evaluate.matching import compare_boxes, match
from raypose.evaluate.pck import MATCH_IOU
from raypose.evaluate.records import Float64Array, Found, Truth
from raypose.structures import IntArray, Skeleton


@dataclass(frozen=True, slots=True)
class SigmaEstimate:
    """A sigma for each keypoint, NaN where no two annotators labelled one, and how many pairs of labels it rests on."""

    skeleton: Skeleton
    sigma_K: Float64Array
    pairs_K: IntArray
    people: int


def estimate_sigmas(labellings: Sequence[Annotations]) -> SigmaEstimate:
    """Compare every two labellings of the same images; DataError where they have no people or keypoints in common.

    Two people are the same where their boxes overlap by an IoU of at least 0.5. Crowds are left out.
    """
    first = labellings[0]
    odd = [one for one in labellings if one.skeleton.names != first.skeleton.names]
    if odd:
        raise DataError(
            f"sigmas: one annotator has keypoints {', '.join(odd[0].skeleton.names)}, another"
            f" {', '.join(first.skeleton.names)}; give labellings of one skeleton"
        )
    compared = [_squared_distances(*pair) for pair in combinations(labellings, 2)]
    squared_QK = np.concatenate(compared) if compared else np.zeros((0, first.skeleton.keypoints))
    pairs_K = np.isfinite(squared_QK).sum(axis=0)
    if not pairs_K.any():
        raise DataError("sigmas: no two annotators labelled the same person of the same image id; give repeated labels")
    total_K = np.where(np.isfinite(squared_QK), squared_QK, 0.0).sum(axis=0)
    mean_K = np.divide(total_K, pairs_K, out=np.full(len(pairs_K), np.nan), where=pairs_K > 0)
    return SigmaEstimate(first.skeleton, np.sqrt(mean_K / 2), pairs_K, len(squared_QK))


def _squared_distances(one: Annotations, other: Annotations) -> Float64Array:
    """d² / s² of each person both have and each keypoint, NaN where one of them did not label it."""
    as_found, origin_P = _as_found(other, one)
    comparison = compare_boxes(one.truth, as_found, len(as_found))
    person_P = match(comparison, np.array([MATCH_IOU]), one.truth.ignore_pose_M)[:, 0]
    both = np.flatnonzero(person_P >= 0)
    mine, theirs = person_P[both], origin_P[both]
    counted = ~one.truth.ignore_pose_M[mine]
    mine, theirs = mine[counted], theirs[counted]
    offset_QK2 = one.truth.keypoints_MK3[mine, :, :2] - other.truth.keypoints_MK3[theirs, :, :2]
    area_Q = (one.truth.area_M[mine] + other.truth.area_M[theirs]) / 2
    labelled_QK = one.truth.labelled()[mine] & other.truth.labelled()[theirs] & (area_Q > 0)[:, None]
    squared_QK = (offset_QK2**2).sum(axis=2)
    relative_QK = np.full(squared_QK.shape, np.nan)
    np.divide(squared_QK, area_Q[:, None], out=relative_QK, where=labelled_QK)
    return relative_QK


def _as_found(other: Annotations, one: Annotations) -> tuple[Found, IntArray]:
    """The people of `other` as if predicted for `one`, all equally sure, and which each was. Same ids, same image."""
    number_of = {number: one.images.get(identity, -1) for identity, number in other.images.items()}
    class_of = {number: one.classes.get(identity, -1) for identity, number in other.classes.items()}
    truth: Truth = other.truth
    image_M = np.array([number_of[number] for number in truth.image_M.tolist()], np.int64)
    class_M = np.array([class_of[number] for number in truth.class_M.tolist()], np.int64)
    origin_P = np.flatnonzero((image_M >= 0) & (class_M >= 0) & ~truth.ignore_pose_M)
    keypoints_PK3 = truth.keypoints_MK3[origin_P]
    found = Found(
        image_P=image_M[origin_P],
        class_P=class_M[origin_P],
        score_P=np.ones(len(origin_P)),
        box_xyxy_P4=truth.box_xyxy_M4[origin_P],
        xy_PK2=keypoints_PK3[:, :, :2],
        visible_PK=(keypoints_PK3[:, :, 2] > 0).astype(np.float64),
        area_P=truth.area_M[origin_P],
    )
    return found, origin_P
