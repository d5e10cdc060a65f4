"""What the next trial is tried with: functions of the seed and of what the trials before have measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any, Protocol

from raypose.tune.records import Trial
from raypose.tune.schema import Domain, SweepConfig
from raypose.tune.space import draw, random_draw, rounded


class Searcher(Protocol):
    def propose(self, number: int, trials: Sequence[Trial]) -> dict[str, Any]:
        """Parameters of the trial of this number, given all earlier ones."""


class RandomSearch:
    """Every trial is drawn by itself: the same sweep draws the same, whatever the order in which trials end."""

    def __init__(self, config: SweepConfig) -> None:
        self._config = config

    def propose(self, number: int, trials: Sequence[Trial]) -> dict[str, Any]:
        return random_draw(self._config.space, Random(f"{self._config.seed}/{number}"))


class Tpe:
    """Optuna's sampler. Its study is made anew from the trials each time, so nothing of it has to be kept.

    Trials that ended early count with their best, trials that still run as taken, trials that failed not at all.
    """

    def __init__(self, config: SweepConfig) -> None:
        self._config = config

    def propose(self, number: int, trials: Sequence[Trial]) -> dict[str, Any]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(
            seed=self._config.seed + number,
            n_startup_trials=self._config.searcher.startup_trials or 10,
            constant_liar=True,
        )
        study = optuna.create_study(direction="maximize" if self._config.mode == "max" else "minimize", sampler=sampler)
        for trial in trials:
            if trial.status != "failed":
                study.add_trial(self._frozen(trial))
        asked = study.ask()
        return draw(self._config.space, lambda key, domain: _suggested(asked, key, domain))

    def _frozen(self, trial: Trial) -> Any:
        import optuna

        space = self._config.space
        best = trial.best(self._config.mode)
        is_known = trial.is_final and not math.isnan(best)
        return optuna.trial.create_trial(
            state=optuna.trial.TrialState.COMPLETE if is_known else optuna.trial.TrialState.RUNNING,
            value=best if is_known else None,
            params={key: _told(space[key], value) for key, value in trial.parameters.items()},
            distributions={key: _distribution(space[key]) for key in trial.parameters},
        )


def searcher_of(config: SweepConfig) -> Searcher:
    return Tpe(config) if config.searcher.use == "tpe" else RandomSearch(config)


def _suggested(asked: Any, key: str, domain: Domain) -> Any:
    if domain.choice is not None:
        # By place: a choice may be of lists, which Optuna does not take.
        return domain.choice[asked.suggest_categorical(key, range(len(domain.choice)))]
    low, high = domain.bounds
    if domain.randint is not None:
        return asked.suggest_int(key, low, domain.whole_numbers[-1], step=domain.step or 1)
    return rounded(domain, asked.suggest_float(key, low, high, log=domain.loguniform is not None))


def _told(domain: Domain, value: Any) -> Any:
    return domain.choice.index(value) if domain.choice is not None else value


def _distribution(domain: Domain) -> Any:
    import optuna

    if domain.choice is not None:
        return optuna.distributions.CategoricalDistribution(range(len(domain.choice)))
    low, high = domain.bounds
    if domain.randint is not None:
        return optuna.distributions.IntDistribution(low, domain.whole_numbers[-1], step=domain.step or 1)
    return optuna.distributions.FloatDistribution(low, high, log=domain.loguniform is not None)
