"""Population-based training (https://arxiv.org/abs/1711.09846, and PB2), a generation at a time: who goes on from whom.

All members train for the same number of epochs and save. Then the worst take over the checkpoints of the best, with
parameters a little changed, and all go on. Nobody exploits a trial that has moved on meanwhile, and what is decided is
a function of what was measured, at the price that the fast wait for the slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cmp_to_key, partial
from random import Random
from typing import Any

from raypose.tune.bandit import gains_of, proposed
from raypose.tune.records import Trial
from raypose.tune.schema import Parameters, SweepConfig
from raypose.tune.space import changed


@dataclass(frozen=True, slots=True)
class Takeover:
    """`target` goes on from `source`, with these parameters."""

    target: int
    source: int
    parameters: dict[str, Any]


def next_boundary(config: SweepConfig, generation: int, epochs: int) -> int | None:
    """The epoch at which the generation after epoch `generation` ends; None for the last, which ends with the run."""
    boundary = generation + (config.scheduler.every_epochs or 1)
    return boundary if boundary < epochs else None


def takeovers(config: SweepConfig, members: Sequence[Trial], epoch: int) -> list[Takeover]:
    """Who takes over from whom after `epoch`. Members that failed are not among `members`."""
    scheduler = config.scheduler
    ranked = sorted(members, key=cmp_to_key(partial(_order, config)))
    count = min(max(1, round(len(ranked) * (scheduler.quantile or 0.25))), len(ranked) // 2)
    best, worst = ranked[:count], ranked[len(ranked) - count :]
    gains = gains_of(config, members) if scheduler.use == "pb2" else []
    plan: list[Takeover] = []
    pending: list[Parameters] = []
    for target in worst:
        random = Random(f"{config.seed}/{epoch}/{target.number}")
        source = random.choice(best)
        if scheduler.use == "pb2":
            parameters = proposed(config, gains, source, epoch, random, pending)
        else:
            parameters = _perturbed(config, source, random)
        plan.append(Takeover(target.number, source.number, parameters))
    return plan


def _perturbed(config: SweepConfig, source: Trial, random: Random) -> dict[str, Any]:
    scheduler = config.scheduler
    return changed(
        config.space,
        source.current_parameters,
        random,
        resample=0.25 if scheduler.resample is None else scheduler.resample,
        factors=scheduler.factors or (0.8, 1.25),
    )


def _order(config: SweepConfig, one: Trial, other: Trial) -> int:
    """Negative where `one` comes first: by its last value, since it is its last weights that would be taken over."""
    if config.better(one.measured[-1].value, other.measured[-1].value):
        return -1
    if config.better(other.measured[-1].value, one.measured[-1].value):
        return 1
    return one.number - other.number
