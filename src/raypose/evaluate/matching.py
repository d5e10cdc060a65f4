"""Who is matched with whom: COCO's greedy matching, for all images at once.

Predictions of one image and class choose in order of falling score. Each takes the most similar person who is
still free and at least as similar as the threshold; a person who counts goes before one who is ignored, and a crowd
is always free. The loop runs over ranks (all first choices, all second choices, …), not over images.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from raypose.evaluate.records import Float64Array, Found, Truth, box_area
from raypose.structures import BoolArray, IntArray

_CHUNK = 1 << 12
"""Pairs whose keypoints are compared at a time: keeps the working set inside the processor's cache."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Every ranked prediction with every person of its image and class.

    `ranked` are all predictions that take part, with or without a person, in order of falling score;
    `rank_Q` is 0 for the best score of an image and class.
    """

    ranked: IntArray
    found_Q: IntArray
    truth_Q: IntArray
    rank_Q: IntArray

    def __len__(self) -> int:
        return len(self.found_Q)

    def select(self, mask_Q: BoolArray) -> Pairs:
        """Only the pairs that `mask_Q` marks."""
        return Pairs(self.ranked, self.found_Q[mask_Q], self.truth_Q[mask_Q], self.rank_Q[mask_Q])


def _rank(found: Found, max_detections: int) -> tuple[IntArray, IntArray]:
    """The best `max_detections` predictions of each image and class, and the rank of each of them."""
    # A stable sort: equal scores keep the order in which they came, as in COCO.
    order_P = np.lexsort((-found.score_P, found.class_P, found.image_P))
    if not len(order_P):
        return order_P, order_P
    image_P, class_P = found.image_P[order_P], found.class_P[order_P]
    first_P = np.ones(len(order_P), np.bool_)
    first_P[1:] = (image_P[1:] != image_P[:-1]) | (class_P[1:] != class_P[:-1])
    position_P = np.arange(len(order_P))
    rank_P = position_P - np.maximum.accumulate(np.where(first_P, position_P, 0))
    kept_P = rank_P < max_detections
    return order_P[kept_P], rank_P[kept_P]


def pair(truth: Truth, found: Found, max_detections: int) -> Pairs:
    """Pair the best `max_detections` predictions of each image and class with its people."""
    ranked, rank_of_ranked = _rank(found, max_detections)
    stride = 1 + max(truth.class_M.max(initial=0), found.class_P.max(initial=0))
    cell_M = truth.image_M * stride + truth.class_M
    order_M = np.argsort(cell_M, kind="stable")
    cell_of_ranked = found.image_P[ranked] * stride + found.class_P[ranked]
    start = np.searchsorted(cell_M[order_M], cell_of_ranked, side="left")
    count = np.searchsorted(cell_M[order_M], cell_of_ranked, side="right") - start
    within_Q = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return Pairs(
        ranked=ranked[np.argsort(-found.score_P[ranked], kind="stable")],
        found_Q=np.repeat(ranked, count),
        truth_Q=order_M[np.repeat(start, count) + within_Q],
        rank_Q=np.repeat(rank_of_ranked, count),
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """People, predictions, and how alike each pair of them is, 0 to 1."""

    truth: Truth
    found: Found
    pairs: Pairs
    similarity_Q: Float64Array


def compare_poses(truth: Truth, found: Found, sigmas_K: Float64Array, max_detections: int) -> Comparison:
    """Compare by OKS the best predictions of each image and class with its people."""
    pairs = pair(truth, found, max_detections)
    return Comparison(truth, found, pairs, oks(truth, found, pairs, sigmas_K))


def compare_boxes(truth: Truth, found: Found, max_detections: int) -> Comparison:
    """Compare by box IoU the best predictions of each image and class with its people."""
    pairs = pair(truth, found, max_detections)
    return Comparison(truth, found, pairs, iou(truth, found, pairs))


def oks(truth: Truth, found: Found, pairs: Pairs, sigmas_K: Float64Array) -> Float64Array:
    """Object keypoint similarity of each pair, 0 to 1, as COCO defines it.

    For a person without labelled keypoints it measures how far predicted keypoints lie outside the person's box
    enlarged to three times its sides, so that a prediction there can be absorbed.
    """
    variance_K = (2 * sigmas_K) ** 2
    labelled_MK, goal_MK2 = truth.labelled(), np.ascontiguousarray(truth.keypoints_MK3[:, :, :2])
    similarity_Q = np.empty(len(pairs))
    for begin in range(0, len(pairs), _CHUNK):
        chunk = slice(begin, begin + _CHUNK)
        people, predictions = pairs.truth_Q[chunk], pairs.found_Q[chunk]
        labelled_QK = labelled_MK[people]
        xy_QK2 = found.xy_PK2[predictions]
        offset_QK2 = xy_QK2 - goal_MK2[people]
        blank_Q = ~labelled_QK.any(axis=1)
        offset_QK2[blank_Q] = _outside(xy_QK2[blank_Q], truth.box_xyxy_M4[people[blank_Q]])
        labelled_QK[blank_Q] = True
        squared_QK = offset_QK2[:, :, 0] ** 2 + offset_QK2[:, :, 1] ** 2
        scale_Q1 = truth.area_M[people, None] + np.spacing(1)
        likeness_QK = np.exp(-(squared_QK / variance_K / scale_Q1 / 2)) * labelled_QK
        similarity_Q[chunk] = likeness_QK.sum(axis=1) / labelled_QK.sum(axis=1)
    return similarity_Q


def iou(truth: Truth, found: Found, pairs: Pairs) -> Float64Array:
    """Intersection over union of each pair's boxes; for a crowd, the share of the prediction that lies inside it."""
    box_Q4, other_Q4 = found.box_xyxy_P4[pairs.found_Q], truth.box_xyxy_M4[pairs.truth_Q]
    overlap_Q2 = np.minimum(box_Q4[:, 2:], other_Q4[:, 2:]) - np.maximum(box_Q4[:, :2], other_Q4[:, :2])
    inside_Q = np.maximum(overlap_Q2[:, 0], 0.0) * np.maximum(overlap_Q2[:, 1], 0.0)
    own_Q = box_area(box_Q4)
    union_Q = own_Q + box_area(other_Q4) - inside_Q
    whole_Q = np.where(truth.crowd_M[pairs.truth_Q], own_Q, union_Q)
    iou_Q = np.zeros(len(pairs))
    np.divide(inside_Q, whole_Q, out=iou_Q, where=whole_Q > 0)
    return iou_Q


def match(comparison: Comparison, thresholds_T: Float64Array, ignore_M: BoolArray) -> IntArray:
    """For each prediction and each threshold, the person it is matched with, or -1: shape (P, T).

    Of equally similar people the last one wins, as in COCO.
    """
    # COCO lets a perfect match pass a threshold of 1 in spite of rounding.
    floor_T = np.minimum(thresholds_T, 1 - 1e-10)
    near_Q = comparison.similarity_Q >= floor_T.min()
    pairs, similarity_Q = comparison.pairs.select(near_Q), comparison.similarity_Q[near_Q]
    crowd_M = comparison.truth.crowd_M
    # Ranks are small, and numpy sorts 16 bits in a time that grows only linearly.
    order_Q = np.argsort(pairs.rank_Q.astype(np.min_scalar_type(pairs.rank_Q.max(initial=0))), kind="stable")
    bounds = np.searchsorted(pairs.rank_Q[order_Q], np.arange(pairs.rank_Q.max(initial=-1) + 2))
    matched_PT = np.full((len(comparison.found), len(thresholds_T)), -1, np.int64)
    free_MT = np.ones((len(crowd_M), len(thresholds_T)), np.bool_)
    for begin, end in pairwise(bounds):
        if begin == end:
            continue
        turn = order_Q[begin:end]
        people = pairs.truth_Q[turn]
        start = np.flatnonzero(np.diff(pairs.found_Q[turn], prepend=-1))
        open_QT = free_MT[people] & (similarity_Q[turn, None] >= floor_T)
        choice_ST = _choose(similarity_Q[turn], open_QT, ignore_M[people], start)
        row, column = np.nonzero(choice_ST >= 0)
        person = people[choice_ST[row, column]]
        matched_PT[pairs.found_Q[turn][start[row]], column] = person
        free_MT[person, column] = crowd_M[person]
    return matched_PT


def _choose(similarity_Q: Float64Array, open_QT: BoolArray, ignored_Q: BoolArray, start_S: IntArray) -> IntArray:
    """The best open pair of each run of pairs that begins at `start_S`, as an index of a pair, -1 for none."""
    size_S = np.diff(np.append(start_S, len(similarity_Q)))
    counts_QT = open_QT & ~ignored_Q[:, None]
    any_counts_ST = np.logical_or.reduceat(counts_QT, start_S, axis=0)
    eligible_QT = np.where(np.repeat(any_counts_ST, size_S, axis=0), counts_QT, open_QT)
    value_QT = np.where(eligible_QT, similarity_Q[:, None], -1.0)
    best_ST = np.maximum.reduceat(value_QT, start_S, axis=0)
    chosen_QT = eligible_QT & (value_QT == np.repeat(best_ST, size_S, axis=0))
    position_Q1 = np.arange(len(similarity_Q))[:, None]
    choice_ST: IntArray = np.maximum.reduceat(np.where(chosen_QT, position_Q1, -1), start_S, axis=0)
    return choice_ST


def _outside(xy_QK2: Float64Array, box_xyxy_Q4: Float64Array) -> Float64Array:
    """How far points lie outside boxes enlarged by their own size on every side, in pixels along x and y."""
    size_Q2 = box_xyxy_Q4[:, 2:] - box_xyxy_Q4[:, :2]
    low_Q12 = (box_xyxy_Q4[:, :2] - size_Q2)[:, None]
    high_Q12 = (box_xyxy_Q4[:, 2:] + size_Q2)[:, None]
    outside_QK2: Float64Array = np.maximum(0.0, low_Q12 - xy_QK2) + np.maximum(0.0, xy_QK2 - high_Q12)
    return outside_QK2
