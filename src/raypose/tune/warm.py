"""What earlier sweeps have found out, as points that a searcher begins with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raypose.errors import CheckpointError
from raypose.storage import ObjectStore
from raypose.tune.records import Trial
from raypose.tune.results import values_of
from raypose.tune.schema import Domain, Parameters, SweepConfig
from raypose.tune.space import Space, draw

PRIOR_KEY = "prior.json"


@dataclass(frozen=True, slots=True)
class Point:
    """Parameters, and what came of them: the metric, then those `against` it."""

    parameters: Parameters
    values: tuple[float, ...]


def points_of(config: SweepConfig, metric: str, trials: Sequence[Trial], their_metric: str) -> list[Point]:
    """Trials of another sweep that could be trials of this one, by what they measured of its metrics.

    Trials that ran or failed are left out, and so is what lies outside the space.
    """
    found = []
    for trial in trials:
        if trial.status not in ("finished", "stopped") or not _fits(config.space, trial.current_parameters):
            continue
        values = values_of(config, trial)
        if metric != their_metric:
            values = (trial.metrics.get(metric, math.nan), *values[1:])
        if not any(math.isnan(value) for value in values):
            found.append(Point(dict(trial.current_parameters), values))
    return found


def write_prior(store: ObjectStore, points: Sequence[Point]) -> None:
    """Kept with the sweep, which goes on alike after an interruption whatever becomes of the earlier ones."""
    store.write(PRIOR_KEY, json.dumps([asdict(point) for point in points], indent=1).encode())


def read_prior(store: ObjectStore) -> list[Point]:
    """Nothing where the sweep began with nothing."""
    if not store.exists(PRIOR_KEY):
        return []
    try:
        return [_point(raw) for raw in json.loads(store.read(PRIOR_KEY))]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{store.place(PRIOR_KEY)}: not the points of earlier sweeps: {error!r}; restore it, or delete the sweep"
        ) from error


def _point(raw: Mapping[str, Any]) -> Point:
    return Point(raw["parameters"], tuple(raw["values"]))


def _fits(space: Space, parameters: Parameters) -> bool:
    """Whether the space could have drawn them."""
    if not all(key in space and _holds(space[key], value) for key, value in parameters.items()):
        return False
    try:
        return draw(space, lambda key, _: parameters[key]) == dict(parameters)
    except KeyError:
        return False


def _holds(domain: Domain, value: Any) -> bool:
    if domain.choice is not None:
        return value in domain.choice
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if domain.randint is not None:
        return value in domain.whole_numbers
    low, high = domain.bounds
    return low <= value <= high
