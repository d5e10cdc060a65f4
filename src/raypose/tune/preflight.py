"""Everything about a sweep that can be refused before Ray starts, beyond what its file says by itself."""

from __future__ import annotations

from raypose.config import RunConfig
from raypose.errors import CheckpointError, ConfigError
from raypose.storage import ObjectStore
from raypose.tune.checks import Sweep
from raypose.tune.found import open_sweep
from raypose.tune.latency import LATENCY, models_of
from raypose.tune.records import Records
from raypose.tune.space import corner_draws
from raypose.tune.warm import Point, points_of

_CHECKED_WITH_DATA = ("train.batch", "model.", "data.", "val.", "checkpoint.")
"""Keys whose values are checked against the data, not only by themselves."""
_MOST_OPENED = 64


def check_with_data(sweep: Sweep, store: ObjectStore) -> None:
    """Raise what would end trials as soon as they begin: about the data, the metric, and settings that meet both."""
    from raypose.data.shard_set import ShardSet
    from raypose.evaluate import Judge
    from raypose.launch.preflight import check_run, metric_names

    place, runs = store.place("trials"), store.child("trials")
    checked: dict[str, RunConfig] = {}
    for corner in [{}, *corner_draws(sweep.config.space, _MOST_OPENED)]:
        told = {key: value for key, value in corner.items() if key.startswith(_CHECKED_WITH_DATA)}
        checked.setdefault(repr(told), sweep.run_of(corner, name="0000", storage=place))
    for run in list(checked.values())[:_MOST_OPENED]:
        check_run(run, runs.child("0000"), resume=False)
    known = [*metric_names(ShardSet.open(sweep.base.data.val), Judge.of(sweep.base.val)), LATENCY]
    for key, metric in zip(("metric", *["against"] * len(sweep.config.against)), sweep.metrics, strict=True):
        if metric not in known:
            raise ConfigError(f"{key}: validation measures no {metric!r}; choose one of {', '.join(known)}")
    if LATENCY in sweep.metrics:
        models_of(sweep)


def read_warm_starts(sweep: Sweep) -> list[Point]:
    """What the sweeps of `warm_start` have found out that helps this one. ConfigError where one has nothing."""
    points = []
    for place in sweep.config.warm_start:
        try:
            theirs, store = open_sweep(place)
            _, trials = Records(store).read()
        except CheckpointError as error:
            raise ConfigError(f"warm_start: {error}") from error
        found = points_of(sweep.config, sweep.metric, trials, theirs.metric)
        if not found:
            raise ConfigError(
                f"warm_start: {place}: none of its {len(trials)} trials has ended, lies in this space and has"
                f" measured {' and '.join(sweep.metrics)}; leave it out, or give both the same keys"
            )
        points += found
    return points
