"""Left and right exchanged, seen from how the set's own people hold their pairs to each other.

Two measures change their sign when a pair is exchanged. Between two pairs (shoulders and hips): whether they point
the same way, 2 d·e over the sum of the four squared distances between their ends, which is where straight limbs are
shorter than crossed ones. Between a pair and a keypoint without one (eyes and nose): on which side of the line from
left to right it lies. How often people of the set have each sign at each strength gives a log likelihood ratio. The
ratios of all that speaks for or against an exchange depend on each other, so their sum is divided by the square root
of their number, and the threshold was set by eye on photographs of gymnasts and of everyday scenes.

Legs that cross look like ankles exchanged. A pair that looks exchanged in more than HABIT of all people is a habit of
the set, or an error of its making, and in either case nothing that tells one person from the others: it is told once.

An exchange of all pairs at once leaves the first measure as it is. Only skeletons with something like a face show
it, by the second. Where most people of a set are exchanged, that is what is learnt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raypose.structures import FloatArray, Skeleton

THRESHOLD = 3.3
HABIT = 0.05
MIN_PEOPLE = 30

_BINS = 8
_MAX_MEASURES = 4_000_000
"""To learn from at once: a whole body with hands and face has 60 pairs, and 3,600 measures a person."""
_DOUBT = 3.0
"""Added to every count: what a handful of people show is no evidence."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sides:
    """P pairs, U keypoints without a pair, C candidate exchanges (sets of pairs), and the learnt log ratios.

    `share_P` says in which share of people each pair looks exchanged.
    """

    pairs_P2: NDArray[np.int64]
    singles_U: NDArray[np.int64]
    candidate_CP: NDArray[np.bool_]
    pair_ratio_PPB: Floats
    single_ratio_PUB: Floats
    share_P: Floats
    people: int


@dataclass(frozen=True, slots=True)
class Swap:
    """The pairs of a person, by their indices, whose exchange would fit best, and by how much."""

    person: int
    pairs: tuple[int, ...]
    score: float


def learn_sides(keypoints_NK3: FloatArray, skeleton: Skeleton) -> Sides:
    """Count signs over people; a few exchanged ones among them do not matter."""
    pairs_P2 = np.array(skeleton.flip_pairs, np.int64).reshape(-1, 2)
    singles_U = np.setdiff1d(np.arange(skeleton.keypoints), pairs_P2)
    measures = len(keypoints_NK3) * len(pairs_P2) * (len(pairs_P2) + len(singles_U))
    keypoints_NK3 = keypoints_NK3[:: 1 + measures // _MAX_MEASURES]
    agreement_NPP, side_NPU = _measures(keypoints_NK3, pairs_P2, singles_U)
    learnt = Sides(
        pairs_P2,
        singles_U,
        _candidates(skeleton),
        _log_ratios(agreement_NPP),
        _log_ratios(side_NPU),
        np.zeros(len(pairs_P2)),
        len(keypoints_NK3),
    )
    exchanged = [pair for swap in find_swaps(keypoints_NK3, learnt) for pair in swap.pairs]
    counts_P = np.bincount(np.array(exchanged, int), minlength=len(pairs_P2))
    return replace(learnt, share_P=counts_P / max(1, len(keypoints_NK3)))


def find_swaps(keypoints_NK3: FloatArray, sides: Sides) -> Iterator[Swap]:
    """For each person the best exchange, where it is better by the threshold and no habit."""
    if not len(sides.pairs_P2) or not len(keypoints_NK3) or sides.people < MIN_PEOPLE:
        return
    score_NC = swap_scores(keypoints_NK3, sides)
    for person, candidate in enumerate(score_NC.argmax(axis=1).tolist()):
        is_habit = bool((sides.share_P[sides.candidate_CP[candidate]] > HABIT).any())
        if score_NC[person, candidate] > THRESHOLD and not is_habit:
            pairs = tuple(np.flatnonzero(sides.candidate_CP[candidate]).tolist())
            yield Swap(person, pairs, float(score_NC[person, candidate]))


def swap_scores(keypoints_NK3: FloatArray, sides: Sides) -> Floats:
    """How much better each candidate exchange would fit each person."""
    agreement_NPP, side_NPU = _measures(keypoints_NK3, sides.pairs_P2, sides.singles_U)
    inside_CP = sides.candidate_CP.astype(np.float64)

    def over_all(of_pairs_NPP: Floats, of_singles_NPU: Floats) -> Floats:
        # What lies between a pair that is exchanged and one that is not changes sign, and all beside a single.
        between_NC = np.einsum("cp,npq,cq->nc", inside_CP, of_pairs_NPP, 1 - inside_CP, optimize=True)
        return np.asarray(between_NC + of_singles_NPU.sum(axis=2) @ inside_CP.T)

    ratio_NC = over_all(_looked_up(agreement_NPP, sides.pair_ratio_PPB), _looked_up(side_NPU, sides.single_ratio_PUB))
    terms_NC = over_all((agreement_NPP != 0).astype(np.float64), (side_NPU != 0).astype(np.float64))
    return np.asarray(-ratio_NC / np.sqrt(np.maximum(terms_NC, 1)))


def _candidates(skeleton: Skeleton) -> NDArray[np.bool_]:
    """Each pair alone, each two that an edge joins (elbows with wrists), and all at once."""
    count = len(skeleton.flip_pairs)
    pair_of = {keypoint: index for index, pair in enumerate(skeleton.flip_pairs) for keypoint in pair}
    chosen = [frozenset({index}) for index in range(count)]
    for first, second in skeleton.edges:
        if first in pair_of and second in pair_of and pair_of[first] != pair_of[second]:
            chosen.append(frozenset({pair_of[first], pair_of[second]}))
    chosen = list(dict.fromkeys([*chosen, frozenset(range(count))]))
    return np.array([[index in members for index in range(count)] for members in chosen], np.bool_)


def _measures(
    keypoints_NK3: FloatArray, pairs_P2: NDArray[np.int64], singles_U: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Both measures, between -1 and 1; 0 where a keypoint is not labelled."""
    xy_NK2 = keypoints_NK3[..., :2].astype(np.float64)
    labelled_NK: NDArray[np.bool_] = np.asarray(keypoints_NK3[..., 2] > 0)
    left_NP2, right_NP2, single_NU2 = xy_NK2[:, pairs_P2[:, 0]], xy_NK2[:, pairs_P2[:, 1]], xy_NK2[:, singles_U]
    whole_NP: NDArray[np.bool_] = np.asarray(labelled_NK[:, pairs_P2].all(axis=2))
    across_NP2 = right_NP2 - left_NP2
    spread_NPP = sum(
        _squared(one[:, :, None] - other[:, None]) for one in (left_NP2, right_NP2) for other in (left_NP2, right_NP2)
    )
    agreement_NPP = 2 * np.einsum("npx,nqx->npq", across_NP2, across_NP2) / np.maximum(spread_NPP, 1e-9)
    agreement_NPP[~(whole_NP[:, :, None] & whole_NP[:, None])] = 0
    agreement_NPP[:, range(len(pairs_P2)), range(len(pairs_P2))] = 0
    to_left_NPU2, to_right_NPU2 = (
        left_NP2[:, :, None] - single_NU2[:, None],
        right_NP2[:, :, None] - single_NU2[:, None],
    )
    cross_NPU = to_left_NPU2[..., 0] * to_right_NPU2[..., 1] - to_left_NPU2[..., 1] * to_right_NPU2[..., 0]
    side_NPU = 2 * cross_NPU / np.maximum(_squared(to_left_NPU2) + _squared(to_right_NPU2), 1e-9)
    side_NPU[~(whole_NP[:, :, None] & labelled_NK[:, None, singles_U])] = 0
    return agreement_NPP, side_NPU


def _squared(vectors: Floats) -> Floats:
    return np.asarray((vectors**2).sum(axis=-1))


def _bins(measure: Floats) -> NDArray[np.int64]:
    return np.minimum((np.abs(measure) * _BINS).astype(np.int64), _BINS - 1)


def _log_ratios(measure_NXY: Floats) -> Floats:
    """Of people with a positive sign to people with a negative one, in bins of strength."""
    bins_NXY = _bins(measure_NXY)
    ratios = [
        np.log(
            (((measure_NXY > 0) & (bins_NXY == index)).sum(axis=0) + _DOUBT)
            / (((measure_NXY < 0) & (bins_NXY == index)).sum(axis=0) + _DOUBT)
        )
        for index in range(_BINS)
    ]
    return np.stack(ratios, axis=-1)


def _looked_up(measure_NXY: Floats, ratio_XYB: Floats) -> Floats:
    rows_XY, columns_XY = np.indices(measure_NXY.shape[1:])
    return np.asarray(np.sign(measure_NXY) * ratio_XYB[rows_XY, columns_XY, _bins(measure_NXY)])
