"""Several metrics at once: which points no other is better than in everything, and how far apart they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Modes = Sequence[Literal["max", "min"]]
Values = Sequence[float]


def ranks(values: Sequence[Values], modes: Modes) -> list[int]:
    """0 for the front, 1 for what would be the front without it, and so on; what is not a number is worst."""
    costs_NM = _costs(values, modes)
    rank_N = np.full(len(costs_NM), -1)
    rank = 0
    while (rank_N < 0).any():
        left = np.flatnonzero(rank_N < 0)
        rank_N[[one for one in left if not _is_dominated(costs_NM[one], costs_NM[left])]] = rank
        rank += 1
    return [int(one) for one in rank_N]


def front(values: Sequence[Values], modes: Modes) -> list[int]:
    """Places of the points of the front."""
    return [place for place, rank in enumerate(ranks(values, modes)) if rank == 0]


def crowded_order(values: Sequence[Values], modes: Modes) -> list[int]:
    """Places by rank, and within a rank those first whose neighbours lie far (Deb et al. 2002)."""
    costs_NM, rank_N = _costs(values, modes), np.array(ranks(values, modes))
    distance_N = np.zeros(len(costs_NM))
    for rank in np.unique(rank_N):
        members = np.flatnonzero(rank_N == rank)
        distance_N[members] = _distances(costs_NM[members])
    return sorted(range(len(costs_NM)), key=lambda place: (rank_N[place], -distance_N[place], place))


def _costs(values: Sequence[Values], modes: Modes) -> NDArray[np.float64]:
    costs_NM = np.array(values, np.float64).reshape(len(values), len(modes))
    costs_NM = costs_NM * [-1.0 if mode == "max" else 1.0 for mode in modes]
    return np.where(np.isnan(costs_NM), np.inf, costs_NM)


def _is_dominated(cost_M: NDArray[np.float64], costs_NM: NDArray[np.float64]) -> bool:
    return bool(((costs_NM <= cost_M).all(axis=1) & (costs_NM < cost_M).any(axis=1)).any())


def _distances(costs_NM: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sides of the box between a point's neighbours, as shares of the whole range; infinite at the ends."""
    distance_N = np.zeros(len(costs_NM))
    for cost_N in costs_NM.T:
        order = np.argsort(cost_N, kind="stable")
        sorted_N = cost_N[order]
        distance_N[order[[0, -1]]] = np.inf
        span = sorted_N[-1] - sorted_N[0]
        if np.isfinite(span) and span > 0:
            distance_N[order[1:-1]] += (sorted_N[2:] - sorted_N[:-2]) / span
    return distance_N
