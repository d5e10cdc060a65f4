"""How positive numbers are spread, in memory that does not grow with how many there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_FIRST_OCTAVE, _LAST_OCTAVE = -8, 24
_BINS_PER_OCTAVE = 128


@dataclass(slots=True)
class Spread:
    """Counts in 128 bins an octave, from 1/256 to 16 million: quantiles are within 0.3 %, both ends exact."""

    counts: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((_LAST_OCTAVE - _FIRST_OCTAVE) * _BINS_PER_OCTAVE, np.int64)
    )
    low: float = math.inf
    high: float = -math.inf

    def add(self, values_N: NDArray[np.floating]) -> None:
        """Count finite values above 0."""
        if not len(values_N):
            return
        self.low, self.high = min(self.low, float(values_N.min())), max(self.high, float(values_N.max()))
        bins_N = (np.log2(values_N.astype(np.float64)) - _FIRST_OCTAVE) * _BINS_PER_OCTAVE
        self.counts += np.bincount(np.clip(bins_N, 0, len(self.counts) - 1).astype(int), minlength=len(self.counts))

    def quantiles(self, shares: Sequence[float]) -> dict[float, float]:
        """The value that this share of all is at or below; empty where nothing was counted."""
        total = int(self.counts.sum())
        if not total:
            return {}
        rank_Q = np.clip(np.ceil(np.asarray(shares) * total), 1, total)
        bins_Q = np.searchsorted(np.cumsum(self.counts), rank_Q)
        values_Q = np.exp2((bins_Q + 0.5) / _BINS_PER_OCTAVE + _FIRST_OCTAVE)
        values_Q = np.where(rank_Q == 1, self.low, np.where(rank_Q == total, self.high, values_Q))
        return {
            share: float(np.clip(value, self.low, self.high)) for share, value in zip(shares, values_Q, strict=True)
        }

    def histogram(self, per_octave: int) -> tuple[list[float], list[int]]:
        """Edges, one more than counts, of the occupied range in `per_octave` (a divisor of 128) bins an octave."""
        coarse = self.counts.reshape(-1, _BINS_PER_OCTAVE // per_octave).sum(axis=1)
        occupied = np.flatnonzero(coarse)
        if not len(occupied):
            return [], []
        first, last = int(occupied[0]), int(occupied[-1]) + 1
        edges = [2.0 ** (index / per_octave + _FIRST_OCTAVE) for index in range(first, last + 1)]
        return edges, coarse[first:last].tolist()
