"""How much of the differences between trials each parameter explains by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raypose.tune.schema import Domain, Parameters

_MOST_GROUPS = 4
_LEAST_TRIALS = 4


def importances(domains: dict[str, Domain], drawn: Sequence[Parameters], scores: Sequence[float]) -> dict[str, float]:
    """Epsilon squared by key, 0 to 1: the share of the variance that lies between groups of trials.

    Groups are the values of a choice, or quantiles of a number, and one of the trials that the key does not apply to.
    Corrected for chance (Kelley 1935): a key that explains nothing comes to about 0, whatever the number of groups.
    Empty where trials are too few to tell.
    """
    if len(scores) < _LEAST_TRIALS or np.ptp(scores) == 0:
        return {}
    values_N = np.asarray(scores, np.float64)
    shares = {
        key: _share(values_N, _groups(domain, [one.get(key) for one in drawn])) for key, domain in domains.items()
    }
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _share(values_N: NDArray[np.float64], group_N: NDArray[np.int64]) -> float:
    groups = np.unique(group_N)
    within = sum(float(((values_N[group_N == g] - values_N[group_N == g].mean()) ** 2).sum()) for g in groups)
    total, free = float(((values_N - values_N.mean()) ** 2).sum()), len(values_N) - len(groups)
    if free < 1:
        return 0.0
    return max(0.0, 1.0 - within / free * (len(values_N) - 1) / total)


def _groups(domain: Domain, values: Sequence[object]) -> NDArray[np.int64]:
    """A number for each trial; -1 where the key does not apply."""
    if domain.choice is not None:
        return np.array([-1 if value is None else domain.choice.index(value) for value in values])
    known = np.array([float(value) for value in values if value is not None])  # type: ignore[arg-type]
    count = min(_MOST_GROUPS, max(1, len(known) // 3))
    edges = np.quantile(known, np.linspace(0, 1, count + 1)[1:-1]) if len(known) else np.array([])
    return np.array([-1 if value is None else int(np.searchsorted(edges, float(value))) for value in values])  # type: ignore[arg-type]
