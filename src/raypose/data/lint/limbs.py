"""Limbs that no body has, by the proportions of the set's own people."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raypose.structures import FloatArray, Skeleton

LEAST_EXCESS = float(np.log(2))
SPREADS = 4.0
MIN_LIMBS = 4
"""Of one person: the median of fewer says little about how large the person is."""

MIN_PEOPLE = 30
_ROUNDS = 5
_NORMAL_90TH = 1.28

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Proportions:
    """For each of E edges the log length relative to the person's size, and the excess from which it is impossible.

    A limb that too few people show has an infinite limit.
    """

    log_length_E: Floats
    limit_E: Floats


@dataclass(frozen=True, slots=True)
class OddLimb:
    """An edge of a person, by its index, and how many times too long it is; 0 for one of no length."""

    person: int
    edge: int
    times: float


def learn_proportions(keypoints_NK3: FloatArray, skeleton: Skeleton) -> Proportions:
    """Robust limb lengths over people; a few bad labels among them do not matter."""
    log_NE = _log_lengths(keypoints_NK3, skeleton)
    length_E = _median(log_NE, axis=0)
    for _ in range(_ROUNDS):  # alternately how large people are and how long their limbs
        length_E = _median(log_NE - _sizes(log_NE - length_E)[:, None], axis=0)
    excess_NE = log_NE - length_E - _sizes(log_NE - length_E)[:, None]
    # The upper side only: foreshortening spreads the lower one.
    spread_E = (_quantile(excess_NE, 0.9) - _quantile(excess_NE, 0.5)) / _NORMAL_90TH
    seen_E = np.isfinite(excess_NE).sum(axis=0)
    limit_E = np.where(seen_E >= MIN_PEOPLE, np.maximum(LEAST_EXCESS, SPREADS * spread_E), np.inf)
    return Proportions(length_E, limit_E)


def odd_limbs(keypoints_NK3: FloatArray, skeleton: Skeleton, proportions: Proportions) -> Iterator[OddLimb]:
    """Limbs that are too long for their person, and those of no length."""
    if not len(keypoints_NK3) or not skeleton.edges:
        return
    log_NE = _log_lengths(keypoints_NK3, skeleton)
    relative_NE = log_NE - proportions.log_length_E
    excess_NE = relative_NE - _sizes(relative_NE)[:, None]
    for person, edge in np.argwhere((excess_NE > proportions.limit_E) | np.isneginf(log_NE)).tolist():
        yield OddLimb(person, edge, float(np.exp(np.nan_to_num(excess_NE[person, edge], nan=-np.inf))))


def _log_lengths(keypoints_NK3: FloatArray, skeleton: Skeleton) -> Floats:
    """NaN where an end is not labelled, minus infinity where both ends are the same point."""
    edges_E2 = np.array(skeleton.edges, int).reshape(-1, 2)
    ends_NE23 = keypoints_NK3.astype(np.float64)[:, edges_E2]
    length_NE = np.linalg.norm(ends_NE23[:, :, 0, :2] - ends_NE23[:, :, 1, :2], axis=-1)
    with np.errstate(divide="ignore"):
        return np.where((ends_NE23[..., 2] > 0).all(axis=-1), np.log(length_NE), np.nan)


def _sizes(relative_NE: Floats) -> Floats:
    """Each person's log size, NaN where too few limbs show it."""
    finite_NE = np.where(np.isfinite(relative_NE), relative_NE, np.nan)
    enough_N = np.isfinite(finite_NE).sum(axis=1) >= MIN_LIMBS
    return np.where(enough_N, _median(finite_NE, axis=1), np.nan)


def _median(values: Floats, axis: int) -> Floats:
    finite = np.where(np.isfinite(values), values, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows without a value, whose median is NaN
        return np.asarray(np.nanmedian(finite, axis=axis), np.float64)


def _quantile(values_NE: Floats, share: float) -> Floats:
    finite_NE = np.where(np.isfinite(values_NE), values_NE, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanquantile(finite_NE, share, axis=0), np.float64)
