"""What the next trial is tried with: functions of the seed and of what the trials before have measured."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from random import Random
from typing import Any, Protocol

from raypose.tune.front import crowded_order
from raypose.tune.records import Trial
from raypose.tune.results import values_of
from raypose.tune.schedulers import rungs_until, value_at_rung
from raypose.tune.schema import Domain, Parameters, SweepConfig
from raypose.tune.space import at_share, draw, random_draw, random_value, rounded, share_of
from raypose.tune.warm import Point

_STARTUP_TRIALS = 10


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

    def __init__(self, config: SweepConfig, prior: Sequence[Point] = ()) -> None:
        self._config, self._prior = config, prior

    def propose(self, number: int, trials: Sequence[Trial]) -> dict[str, Any]:
        known = [*self._prior, *_ended(self._config, trials)]
        running = [trial.parameters for trial in trials if not trial.is_final]
        startup = self._config.searcher.startup_trials or _STARTUP_TRIALS
        return suggested(self._config, number, known, running, n_startup_trials=startup)


class Bohb:
    """BOHB (https://arxiv.org/abs/1807.01774) for trials that end on rungs: what is compared was trained equally long.

    Learns from the highest rung that enough trials have come to, by default two more than there are keys, with TPE for
    all keys together, and draws a third of the trials at random, so that a rung that misleads is found out.
    """

    RANDOM_SHARE = 1 / 3

    def __init__(self, config: SweepConfig, epochs: int, prior: Sequence[Point] = ()) -> None:
        self._config, self._prior, self._epochs = config, prior, epochs
        self._rungs = rungs_until(epochs, config.scheduler.min_epochs or 1, config.scheduler.reduction or 3.0)

    def propose(self, number: int, trials: Sequence[Trial]) -> dict[str, Any]:
        random = Random(f"{self._config.seed}/{number}")
        known, running = self._compared(trials)
        if not known or random.random() < self.RANDOM_SHARE:
            return random_draw(self._config.space, random)
        return suggested(self._config, number, known, running, n_startup_trials=0, multivariate=True, group=True)

    def _compared(self, trials: Sequence[Trial]) -> tuple[list[Point], list[Parameters]]:
        """What is known at the rung that is learnt from, and what is on its way there; nothing if it is too early."""
        least = self._config.searcher.startup_trials or len(self._config.space) + 2
        for rung in sorted({*self._rungs, self._epochs}, reverse=True):
            known = [*self._prior, *(point for trial in trials if (point := self._at(trial, rung)))]
            if len(known) >= least:
                return known, [one.parameters for one in trials if not one.is_final and one.epoch < rung]
        return [], []

    def _at(self, trial: Trial, rung: int) -> Point | None:
        if trial.epoch < rung or trial.status == "failed":
            return None
        value = value_at_rung(trial, rung, self._config.mode)
        return None if math.isnan(value) else Point(trial.parameters, (value,))


class Nsga2:
    """NSGA-II (Deb et al. 2002) without generations: parents come from the best of all trials so far.

    So nobody waits for a generation to end. As many are parents as trials are drawn at random to begin with: by front,
    and within a front those whose neighbours lie far. A child mixes two of them, and draws one setting in so many anew.
    """

    def __init__(self, config: SweepConfig, prior: Sequence[Point] = ()) -> None:
        self._config, self._prior = config, prior

    def propose(self, number: int, trials: Sequence[Trial]) -> dict[str, Any]:
        random, space = Random(f"{self._config.seed}/{number}"), self._config.space
        startup = self._config.searcher.startup_trials or _STARTUP_TRIALS
        known = [*self._prior, *_ended(self._config, trials)]
        if len(known) < startup:
            return random_draw(space, random)
        order = crowded_order([point.values for point in known], self._config.modes)
        parents = [known[place].parameters for place in order[: max(2, startup)]]
        one, other = _tournament(parents, random), _tournament(parents, random)

        def choose(key: str, domain: Domain) -> Any:
            theirs = [parent[key] for parent in (one, other) if key in parent]
            if not theirs or random.random() < 1 / len(space):
                return random_value(domain, random)
            return _mixed(domain, theirs, random)

        return draw(space, choose)


def searcher_of(config: SweepConfig, epochs: int, prior: Sequence[Point] = ()) -> Searcher:
    """For trials of `epochs` epochs; `prior` is what was known before the sweep."""
    match config.searcher.use:
        case "tpe":
            return Tpe(config, prior)
        case "bohb":
            return Bohb(config, epochs, prior)
        case "nsga2":
            return Nsga2(config, prior)
    return RandomSearch(config)


def _ended(config: SweepConfig, trials: Sequence[Trial]) -> list[Point]:
    points = [Point(one.parameters, values_of(config, one)) for one in trials if one.status in ("finished", "stopped")]
    return [point for point in points if not any(math.isnan(value) for value in point.values)]


def _tournament(best_first: Sequence[Parameters], random: Random) -> Parameters:
    return best_first[min(random.randrange(len(best_first)), random.randrange(len(best_first)))]


def _mixed(domain: Domain, theirs: Sequence[Any], random: Random) -> Any:
    """One of the choices; of numbers one between the two, or as far as half their distance beyond (BLX-0.5)."""
    if domain.choice is not None:
        return random.choice(theirs)
    low, high = sorted(share_of(domain, value) for value in (theirs[0], theirs[-1]))
    return at_share(domain, random.uniform(low - (high - low) / 2, high + (high - low) / 2))


def suggested(
    config: SweepConfig, number: int, known: Sequence[Point], running: Sequence[Parameters], **settings: Any
) -> dict[str, Any]:
    """What Optuna's TPE takes next, given points and what is being tried."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    sampler = optuna.samplers.TPESampler(seed=config.seed + number, constant_liar=True, **settings)
    directions = ["maximize" if mode == "max" else "minimize" for mode in config.modes]
    study = optuna.create_study(directions=directions, sampler=sampler)
    for point in known:
        study.add_trial(_frozen(config, point.parameters, list(point.values)))
    for parameters in running:
        study.add_trial(_frozen(config, parameters, None))
    asked = study.ask()
    return draw(config.space, lambda key, domain: _suggested(asked, key, domain))


def _frozen(config: SweepConfig, parameters: Parameters, values: list[float] | None) -> Any:
    import optuna

    states = optuna.trial.TrialState
    return optuna.trial.create_trial(
        state=states.RUNNING if values is None else states.COMPLETE,
        values=values,
        params={key: _told(config.space[key], value) for key, value in parameters.items()},
        distributions={key: _distribution(config.space[key]) for key in parameters},
    )


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
