"""When a trial ends early: pure functions of what all trials have measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from statistics import fmean, median
from typing import Literal, Protocol

from raypose.tune.records import Trial
from raypose.tune.schema import SweepConfig


class Scheduler(Protocol):
    def verdict(self, trial: Trial, others: Sequence[Trial]) -> str | None:
        """Why `trial` should end now that it has measured an epoch; None to go on."""


class Never:
    """Every trial runs to its end."""

    def verdict(self, trial: Trial, others: Sequence[Trial]) -> str | None:
        return None


class Asha:
    """Asynchronous successive halving that stops: https://arxiv.org/abs/1810.05934, as Ray Tune has it.

    A trial that reaches a rung goes on if it is among the best ceil(n / reduction) of the n that have reached it so
    far. Nobody waits for anybody, so the first to come always goes on.
    """

    def __init__(self, config: SweepConfig, min_epochs: int | None = None) -> None:
        self._config = config
        self._min_epochs = min_epochs or config.scheduler.min_epochs or 1
        self._reduction = config.scheduler.reduction or 3.0

    def verdict(self, trial: Trial, others: Sequence[Trial]) -> str | None:
        rung = self._rung_reached(trial)
        if rung is None:
            return None
        mode = self._config.mode
        value = value_at_rung(trial, rung, mode)
        rivals = [value_at_rung(one, rung, mode) for one in others if one.epoch >= rung]
        better = sum(self._config.better(rival, value) for rival in rivals)
        kept = math.ceil((len(rivals) + 1) / self._reduction)
        if better < kept:
            return None
        return f"rung of epoch {rung}: {better} of {len(rivals)} others were better, the best {kept} go on"

    def _rung_reached(self, trial: Trial) -> int | None:
        """The rung that the last measurement was the first to reach."""
        before = trial.measured[-2].epoch if len(trial.measured) > 1 else 0
        rungs = rungs_until(trial.epoch, self._min_epochs, self._reduction)
        return next((rung for rung in reversed(rungs) if before < rung), None)


class Hyperband:
    """Asynchronous Hyperband (https://arxiv.org/abs/1603.06560): trials are dealt out among brackets.

    Each bracket is an Asha of its own, and begins to choose a rung later than the one before; in the last nobody ends
    early. So what is slow to show its worth has a chance, too. Of early brackets there are more trials, in the
    proportions of the paper, so that all brackets cost about the same.
    """

    def __init__(self, config: SweepConfig, epochs: int) -> None:
        reduction = config.scheduler.reduction or 3.0
        rungs = rungs_until(epochs - 1, config.scheduler.min_epochs or 1, reduction)
        self._seed = config.seed
        self._brackets: list[Scheduler] = [*(Asha(config, rung) for rung in rungs), Never()]
        chosen = range(len(rungs), -1, -1)  # how often trials of each bracket are chosen from
        self._weights = [math.ceil((len(rungs) + 1) / (times + 1) * reduction**times) for times in chosen]

    def verdict(self, trial: Trial, others: Sequence[Trial]) -> str | None:
        bracket = self.bracket_of(trial.number)
        rivals = [one for one in others if self.bracket_of(one.number) == bracket]
        return self._brackets[bracket].verdict(trial, rivals)

    def bracket_of(self, number: int) -> int:
        """0 for the one that chooses first."""
        return Random(f"{self._seed}/bracket/{number}").choices(range(len(self._weights)), self._weights)[0]


class Median:
    """Ends a trial whose best is worse than the median of the others' means so far, as Google Vizier does."""

    def __init__(self, config: SweepConfig) -> None:
        self._config = config
        self._min_epochs = config.scheduler.min_epochs or 1
        self._min_trials = config.scheduler.min_trials or 3

    def verdict(self, trial: Trial, others: Sequence[Trial]) -> str | None:
        means = [_mean_until(one, trial.epoch) for one in others if one.epoch >= trial.epoch]
        means = [mean for mean in means if not math.isnan(mean)]
        if trial.epoch < self._min_epochs or len(means) < self._min_trials:
            return None
        best, middle = trial.best(self._config.mode), median(means)
        if not self._config.better(middle, best):
            return None
        return f"epoch {trial.epoch}: {best:.4g} is worse than {middle:.4g}, the median of {len(means)} others"


def scheduler_of(config: SweepConfig, epochs: int) -> Scheduler:
    """What ends trials of `epochs` epochs early. The exploits of populations are not its business."""
    match config.scheduler.use:
        case "asha":
            return Asha(config)
        case "hyperband":
            return Hyperband(config, epochs)
        case "median":
            return Median(config)
    return Never()


def rungs_until(epochs: int, first: int, reduction: float) -> list[int]:
    """Epochs at which trials are compared, lowest first."""
    rungs, rung = [], float(first)
    while rung <= epochs:
        rungs.append(round(rung))
        rung *= reduction
    return rungs


def value_at_rung(trial: Trial, rung: int, mode: Literal["max", "min"]) -> float:
    """The best of a trial that has reached a rung, when it was first measured there or beyond."""
    reached = next(one.epoch for one in trial.measured if one.epoch >= rung)
    return trial.value_at(reached, mode)


def _mean_until(trial: Trial, epoch: int) -> float:
    values = [one.value for one in trial.measured if one.epoch <= epoch and not math.isnan(one.value)]
    return fmean(values) if values else math.nan
