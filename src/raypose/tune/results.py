"""What a sweep comes to: the order of its trials, `trials.csv`, and `best.yaml`, which can be trained."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cmp_to_key

from raypose.config import RunConfig, dump_config
from raypose.storage import ObjectStore
from raypose.tune.checks import Sweep
from raypose.tune.front import front
from raypose.tune.records import Measured, Trial
from raypose.tune.schema import SweepConfig

TRIALS_KEY = "trials.csv"
BEST_KEY = "best.yaml"
FRONT = "front/"


def score(config: SweepConfig, trial: Trial) -> float:
    """What a trial is judged by: its best value, or in a population, where weights are handed on, its last."""
    if config.is_population:
        return trial.measured[-1].value if trial.measured else math.nan
    return trial.best(config.mode)


def validated(config: SweepConfig, trial: Trial, measured: Measured, metrics: Mapping[str, float]) -> Trial:
    """A trial after another epoch. It keeps the metrics of its best one; in a population, of its last."""
    is_best = config.better(measured.value, trial.best(config.mode))
    keeps_these = is_best or config.is_population or not trial.metrics
    return replace(
        trial.with_measured(measured),
        steps=max(trial.steps, measured.step),
        metrics=metrics if keeps_these else trial.metrics,
    )


def values_of(config: SweepConfig, trial: Trial) -> tuple[float, ...]:
    """The metric, and what was measured against it in the same epoch."""
    return (score(config, trial), *(trial.metrics.get(name, math.nan) for name in config.against))


def front_of(config: SweepConfig, trials: Sequence[Trial]) -> list[Trial]:
    """Trials that no other is better than in everything, best of the metric first; with one metric, the best."""
    ranked = best_first(config, trials)
    if not config.against:
        return ranked[:1]
    measured = [one for one in ranked if not any(math.isnan(value) for value in values_of(config, one))]
    return [measured[place] for place in front([values_of(config, one) for one in measured], config.modes)]


def best_first(config: SweepConfig, trials: Sequence[Trial]) -> list[Trial]:
    """Trials that measured something, best first; of equals the earlier."""

    def order(one: Trial, other: Trial) -> int:
        if config.better(score(config, one), score(config, other)):
            return -1
        return 1 if config.better(score(config, other), score(config, one)) else one.number - other.number

    return sorted((trial for trial in trials if not math.isnan(score(config, trial))), key=cmp_to_key(order))


def best_config(sweep: Sweep, best: Trial) -> RunConfig:
    """A run of its own with the parameters of the best trial, beside the sweep."""
    suffix = best.name if sweep.config.against else "best"
    name = f"{sweep.config.name[: 99 - len(suffix)]}-{suffix}"
    return sweep.run_of(best.current_parameters, name=name, storage=sweep.config.storage)


def publish_results(sweep: Sweep, store: ObjectStore, trials: Sequence[Trial]) -> None:
    """Write both files, `best.yaml` only where there is a best trial, and one for each trial of a front."""
    store.write(TRIALS_KEY, trials_csv(sweep, trials).encode())
    ranked = best_first(sweep.config, trials)
    if ranked:
        store.write(BEST_KEY, render_best(sweep, store, ranked[0]).encode())
    if sweep.config.against:
        for trial in front_of(sweep.config, trials):
            store.write(f"{FRONT}{trial.name}.yaml", render_best(sweep, store, trial).encode())


def trials_csv(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """One row for each trial, in the order in which they began."""
    metrics = sorted({name for trial in trials for name in trial.metrics})
    on_front = front_of(sweep.config, trials)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["trial", "status", *sweep.config.space, "score", "epochs", "steps", "steps_repeated", "seconds", "attempts",
         "front", *metrics, "reason"]
    )  # fmt: skip
    for trial in trials:
        values = [trial.metrics.get(name, math.nan) for name in metrics]
        writer.writerow(
            [trial.name, trial.status, *(trial.current_parameters.get(key, "") for key in sweep.config.space),
             _figure(score(sweep.config, trial)), trial.epoch, trial.steps, trial.steps_repeated, trial.seconds,
             trial.attempts, int(trial in on_front), *map(_figure, values), trial.reason]
        )  # fmt: skip
    return text.getvalue()


def render_best(sweep: Sweep, store: ObjectStore, best: Trial) -> str:
    """The text of `best.yaml`, for the best trial or another of the front."""
    config = sweep.config
    place = "On the front" if config.against else "The best"
    measured = [f"{name} {value:.4f}" for name, value in zip(sweep.metrics, values_of(config, best), strict=True)]
    head = [
        f"# {place} of sweep {config.name}: trial {best.name}, {', '.join(measured)}.",
        f"# Its run, weights included: {store.child('trials').place(best.name)}",
        "# Train it again with: raypose train best.yaml",
    ]
    if best.exploits:
        head.append("# Its settings changed on the way (see the lineage in report.html); these are the last ones.")
    return "\n".join([*head, dump_config(best_config(sweep, best))])


def _figure(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
