"""What goes wrong with keypoints, and what each kind of error costs in AP.

After Ronchi and Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation", ICCV 2017. The likeness
of a predicted keypoint to a labelled one is its term of the OKS. A keypoint is good from 0.85 on; a jitter from 0.5
on; else an inversion if it lies (0.5) on its mirror image in the same person; else a swap if it lies on that keypoint
or its mirror image in another person; else a miss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from raypose.evaluate.coco import AREAS, precision_recall
from raypose.evaluate.matching import Comparison, Pairs, oks
from raypose.evaluate.records import Float64Array, Found, Truth
from raypose.structures import BoolArray, IntArray, Skeleton

GOOD, NEAR = 0.85, 0.5


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One kind of error. `share` is of the labelled keypoints of people who were found.

    `ap_gain` is how much higher pose AP would be if the keypoints of this kind lay where they are labelled.
    """

    name: str
    keypoints: int
    share: float
    ap_gain: float


def error_kinds(
    by_pose: Comparison,
    kinds_PK: Mapping[str, BoolArray],
    person_P: IntArray,
    *,
    sigmas_K: Float64Array,
    classes: int,
    pose_ap: float,
) -> tuple[ErrorKind, ...]:
    """Count jitters, inversions, swaps and misses, as `classify` tells them apart, and price them.

    `person_P` is the person each prediction answers for, -1 for none; `by_pose` is what `pose_ap` is made of.
    """
    truth = by_pose.truth
    # One more person, nobody, answers for index -1.
    counted_MK = np.concatenate([truth.labelled() & ~truth.ignore_pose_M[:, None], np.zeros((1, len(sigmas_K)), bool)])
    judged_PK = counted_MK[person_P]
    total, kinds = int(judged_PK.sum()), []
    for name, kind_PK in kinds_PK.items():
        wrong_PK = kind_PK & judged_PK
        count = int(wrong_PK.sum())
        corrected_ap = _pose_ap(_corrected(by_pose, wrong_PK, person_P, sigmas_K), classes) if count else pose_ap
        kinds.append(ErrorKind(name, count, count / total if total else float("nan"), corrected_ap - pose_ap))
    return tuple(kinds)


def classify(
    by_box: Comparison, person_P: IntArray, skeleton: Skeleton, sigmas_K: Float64Array
) -> dict[str, BoolArray]:
    """For each kind, which predicted keypoints are of it, judged against the person they answer for.

    Keypoints that nobody labelled are of no meaning here: whoever counts leaves them out.
    """
    mirror_K = np.array(skeleton.flip_index)
    has_mirror_K = mirror_K != np.arange(len(mirror_K))
    truth, found = by_box.truth, by_box.found
    shape = found.xy_PK2.shape[:2]
    good_PK, near_PK, inverted_PK, other_PK = (np.zeros(shape, np.bool_) for _ in range(4))

    own = by_box.pairs.select(by_box.pairs.truth_Q == person_P[by_box.pairs.found_Q])
    exponent_QK = _exponent(truth, found, own, sigmas_K)
    good_PK[own.found_Q] = exponent_QK <= -math.log(GOOD)
    near_PK[own.found_Q] = exponent_QK <= -math.log(NEAR)
    inverted_PK[own.found_Q] = (_exponent(truth, found, own, sigmas_K, mirror_K) <= -math.log(NEAR)) & has_mirror_K
    inverted_PK &= ~near_PK

    astray_P = (person_P >= 0) & ~(near_PK | inverted_PK).all(axis=1)
    others_Q = astray_P[by_box.pairs.found_Q] & (by_box.pairs.truth_Q != person_P[by_box.pairs.found_Q])
    others = by_box.pairs.select(others_Q)
    for goal_K in (None, mirror_K):
        pair_Q, keypoint_Q = np.nonzero(_exponent(truth, found, others, sigmas_K, goal_K) <= -math.log(NEAR))
        other_PK[others.found_Q[pair_Q], keypoint_Q] = True
    swapped_PK = other_PK & ~near_PK & ~inverted_PK
    return {
        "jitter": near_PK & ~good_PK,
        "inversion": inverted_PK,
        "swap": swapped_PK,
        "miss": ~near_PK & ~inverted_PK & ~swapped_PK,
    }


def _exponent(
    truth: Truth, found: Found, pairs: Pairs, sigmas_K: Float64Array, goal_K: IntArray | None = None
) -> Float64Array:
    """Minus the logarithm of the likeness of each predicted keypoint to the pair's person, infinite if not labelled.

    `goal_K` names for each keypoint another one to compare it with.
    """
    goal_QK3 = truth.keypoints_MK3[pairs.truth_Q]
    if goal_K is not None:
        goal_QK3 = goal_QK3[:, goal_K]
    offset_QK2 = found.xy_PK2[pairs.found_Q] - goal_QK3[:, :, :2]
    squared_QK = offset_QK2[:, :, 0] ** 2 + offset_QK2[:, :, 1] ** 2
    scale_QK = 2 * truth.area_M[pairs.truth_Q, None] * (2 * sigmas_K) ** 2 + np.spacing(1)
    return np.where(goal_QK3[:, :, 2] > 0, squared_QK / scale_QK, np.inf)


def _corrected(by_pose: Comparison, wrong_PK: BoolArray, person_P: IntArray, sigmas_K: Float64Array) -> Comparison:
    """The same comparison, had the marked keypoints been predicted where they are labelled."""
    truth, xy_PK2 = by_pose.truth, by_pose.found.xy_PK2.copy()
    prediction, keypoint = np.nonzero(wrong_PK)
    xy_PK2[prediction, keypoint] = truth.keypoints_MK3[person_P[prediction], keypoint, :2]
    found, similarity_Q = replace(by_pose.found, xy_PK2=xy_PK2), by_pose.similarity_Q.copy()
    moved_P: BoolArray = np.logical_or.reduce(wrong_PK, axis=1)
    affected_Q = moved_P[by_pose.pairs.found_Q]
    similarity_Q[affected_Q] = oks(truth, found, by_pose.pairs.select(affected_Q), sigmas_K)
    return replace(by_pose, found=found, similarity_Q=similarity_Q)


def _pose_ap(comparison: Comparison, classes: int) -> float:
    areas = {"all": AREAS["all"]}
    return precision_recall(comparison, comparison.truth.ignore_pose_M, classes=classes, areas=areas).ap()
