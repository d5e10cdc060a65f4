"""PB2 (https://arxiv.org/abs/2002.02518): the next settings of a population, from what settings have brought so far.

A Gaussian process over time, the value that a member stood at and its settings says what an epoch will bring. Settings
are taken where that, with what is uncertain in its favour, is most. What is long past counts less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypose.tune.records import Measured, Trial
from raypose.tune.schema import Parameters, SweepConfig
from raypose.tune.space import at_share, changed, numeric, share_of

# N gains, F features: the value before and one share of its range for each setting
FloatArray = NDArray[np.float64]

_MOST_GAINS = 400
"""Newest ones that the process is fitted to: its cost grows with their cube."""
_CANDIDATES = 1000
_BEFORE_WEIGHT = 0.2
"""Of the value before, against settings. The best lie beyond what was seen; at full weight nothing is known there."""
_LENGTHS, _FORGETTING, _NOISES = (0.15, 0.3, 0.6, 1.2), (0.0, 0.05, 0.2), (0.01, 0.1, 0.5)


@dataclass(frozen=True, slots=True)
class Gain:
    """What an epoch of training with these parameters has brought, after `epoch` epochs that had led to `before`."""

    epoch: int
    before: float
    parameters: Parameters
    gain: float


def gains_of(config: SweepConfig, members: Sequence[Trial]) -> list[Gain]:
    """Of all that was lived, given up or not, oldest first; better is more.

    Nobody has measured the beginning. The worst first value stands for it: all begin with the same weights.
    """
    sign = 1.0 if config.mode == "max" else -1.0
    lives = [one.exploits[0].left if one.exploits else one.measured for one in members]
    firsts = [sign * lived[0].value for lived in lives if lived and not math.isnan(lived[0].value)]
    start = Measured(0, 0, sign * min(firsts, default=0.0))
    found = []
    for parameters, lived in (stretch for member in members for stretch in _stretches(member, start)):
        for before, after in pairwise(lived):
            if not math.isnan(before.value) and not math.isnan(after.value):
                gain = sign * (after.value - before.value) / (after.epoch - before.epoch)
                found.append(Gain(before.epoch, before.value, parameters, gain))
    return sorted(found, key=lambda one: one.epoch)[-_MOST_GAINS:]


def _stretches(trial: Trial, start: Measured) -> Iterator[tuple[Parameters, list[Measured]]]:
    """What was measured under each of the parameters that a member had, the value before included."""
    since, parameters = 0, trial.parameters
    for exploit in trial.exploits:
        yield parameters, _from(since, exploit.left, start)
        since, parameters = exploit.epoch, exploit.parameters
    yield parameters, _from(since, trial.measured, start)


def _from(since: int, history: Sequence[Measured], start: Measured) -> list[Measured]:
    return [start, *history] if since == 0 else [one for one in history if one.epoch >= since]


def proposed(
    config: SweepConfig, gains: Sequence[Gain], source: Trial, epoch: int, random: Random, pending: list[Parameters]
) -> dict[str, Any]:
    """Settings for a member that goes on from `source` at `epoch`; added to `pending`, so that no two try the same.

    Choices and settings with conditions change as they do with `pbt`.
    """
    parameters = changed(config.space, source.current_parameters, random, resample=0.25, factors=(0.8, 1.25))
    keys = numeric(config.space)
    if len(gains) >= 2 and keys:
        process = _Process.fitted(config, keys, gains)
        before = source.measured[-1].value
        for other in pending:
            process.expect(epoch, before, other)
        draw = np.random.default_rng(random.getrandbits(32))
        shares_NF = draw.random((_CANDIDATES, len(keys)))
        best = shares_NF[int(np.argmax(process.upper_bound(epoch, before, shares_NF)))]
        parameters |= {key: at_share(config.space[key], float(share)) for key, share in zip(keys, best, strict=True)}
    pending.append(parameters)
    return parameters


class _Process:
    """A Gaussian process with a squared-exponential kernel that forgets, over gains brought to mean 0 and spread 1."""

    def __init__(
        self,
        config: SweepConfig,
        keys: Sequence[str],
        gains: Sequence[Gain],
        length: float,
        forget: float,
        noise: float,
    ) -> None:
        self._space, self._keys = config.space, keys
        self._length, self._forget, self._noise = length, forget, noise
        self._every = config.scheduler.every_epochs or 1
        befores = [one.before for one in gains]
        self._low, self._span = min(befores), (max(befores) - min(befores)) or 1.0
        gain_N = np.array([one.gain for one in gains])
        self._y_N = (gain_N - gain_N.mean()) / (float(gain_N.std()) or 1.0)
        self._x_NF = np.array([self._features(one.before, self._shares(one.parameters)) for one in gains])
        self._t_N = np.array([one.epoch for one in gains], np.float64)
        self._solve()

    @classmethod
    def fitted(cls, config: SweepConfig, keys: Sequence[str], gains: Sequence[Gain]) -> _Process:
        """The most likely of a grid of kernels: there are too few points for anything finer."""
        grid = (cls(config, keys, gains, *kernel) for kernel in product(_LENGTHS, _FORGETTING, _NOISES))
        return max(grid, key=lambda process: process.log_likelihood())

    def log_likelihood(self) -> float:
        return float(-0.5 * self._y_N @ self._weight_N - np.log(np.diag(self._root_NN)).sum())

    def expect(self, epoch: int, before: float, parameters: Parameters) -> None:
        """Take it for granted that these settings will bring what is expected of them."""
        shares_1F = np.array([self._shares(parameters)])
        mean_1, _ = self._posterior(epoch, before, shares_1F)
        self._x_NF = np.vstack([self._x_NF, [self._features(before, shares_1F[0])]])
        self._t_N, self._y_N = np.append(self._t_N, epoch), np.append(self._y_N, mean_1)
        self._solve()

    def upper_bound(self, epoch: int, before: float, shares_NF: FloatArray) -> FloatArray:
        """Mean and so many deviations, the number as in the authors' code."""
        mean_N, deviation_N = self._posterior(epoch, before, shares_NF)
        kappa = math.sqrt(0.2 + max(0.0, math.log(0.4 * len(self._y_N))))
        return np.asarray(mean_N + kappa * deviation_N)

    def _posterior(self, epoch: int, before: float, shares_NF: FloatArray) -> tuple[FloatArray, FloatArray]:
        x_QF = np.array([self._features(before, shares) for shares in shares_NF])
        cross_QN = self._kernel(x_QF, np.full(len(x_QF), float(epoch)), self._x_NF, self._t_N)
        mean_Q = cross_QN @ self._weight_N
        half_NQ = np.linalg.solve(self._root_NN, cross_QN.T)
        return mean_Q, np.sqrt(np.maximum(1.0 - (half_NQ**2).sum(axis=0), 1e-12))

    def _solve(self) -> None:
        kernel_NN = self._kernel(self._x_NF, self._t_N, self._x_NF, self._t_N)
        self._root_NN = np.linalg.cholesky(kernel_NN + self._noise * np.eye(len(kernel_NN)))
        self._weight_N = np.linalg.solve(self._root_NN.T, np.linalg.solve(self._root_NN, self._y_N))

    def _kernel(self, x_NF: FloatArray, t_N: FloatArray, x_MF: FloatArray, t_M: FloatArray) -> FloatArray:
        squared_NM = ((x_NF[:, None] - x_MF[None]) ** 2).sum(axis=2)
        generations_NM = np.abs(t_N[:, None] - t_M[None]) / self._every
        return np.asarray(np.exp(-squared_NM / (2 * self._length**2)) * (1 - self._forget) ** (generations_NM / 2))

    def _shares(self, parameters: Parameters) -> list[float]:
        return [share_of(self._space[key], parameters[key]) for key in self._keys]

    def _features(self, before: float, shares: Sequence[float] | FloatArray) -> list[float]:
        return [_BEFORE_WEIGHT * (before - self._low) / self._span, *shares]
