"""A learning rate for a run that nobody has trained yet: the range test of L. N. Smith, https://arxiv.org/abs/1506.01186.

The rate grows from step to step by the same factor, on the run's own data, batches and optimizer, until the loss runs
away. Where it falls fastest is a good `train.lr0`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.optim import Optimizer

from raypose.config import RunConfig
from raypose.engine.setup import prepare
from raypose.engine.world import World
from raypose.errors import TrainingError
from raypose.storage.local import LocalStore
from raypose.structures import FloatArray
from raypose.telemetry import Event

SMOOTHING = 0.9
"""Of the moving average of losses, of which a single one says little."""
RAN_AWAY = 3.0
"""The test ends where the average loss is so many times its least."""
FIRST_TO_JUDGE = 5
"""The average over fewer steps falls and rises by chance."""


@dataclass(frozen=True, slots=True)
class RangeTest:
    """Average losses at rising rates."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float
    ran_away: bool
    """Whether rates were tried that are too large; else the best may lie beyond them."""


@dataclass(frozen=True, slots=True)
class _Ramp:
    """In place of a Schedule: every step updates, at a rate that grows by the same factor each time."""

    low: float
    high: float
    steps: int

    def rate(self, step: int) -> float:
        return float(self.low * (self.high / self.low) ** (step / (self.steps - 1)))

    def apply(self, optimizer: Optimizer, step: int) -> None:
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        lr0 = min(group["initial_lr"] for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            group["lr"] = self.rate(step) * group["initial_lr"] / lr0  # some train at a multiple of lr0

    def updates_at(self, step: int) -> bool:
        return True


def find_learning_rate(
    config: RunConfig,
    *,
    device: str = "auto",
    steps: int = 100,
    low: float = 1e-6,
    high: float = 1.0,
    progress: Callable[[int], None] = lambda step: None,
) -> RangeTest:
    """Run the test in this process; nothing is written. Raises TrainingError where no loss was finite."""
    train = config.train.model_copy(update={"epochs": max(config.train.epochs, steps * config.train.batch)})
    config = config.model_copy(update={"train": train})  # data for all steps, however few there are
    ramp = _Ramp(low, high, steps)
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory(prefix="raypose-lr-") as folder:
        parts = prepare(config, World(device=device), LocalStore(Path(folder)), _ignore)
        parts.train_step.schedule = ramp
        averages: list[float] = []
        average, ran_away = 0.0, False
        for step, batches in zip(range(steps), parts.feed(0), strict=False):
            result = parts.train_step(step, batches, step)
            loss = float(result.losses.sum()) / len(batches)
            ran_away = result.dropped is not None or not math.isfinite(loss)
            if ran_away:
                break
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            averages.append(average / (1 - SMOOTHING ** (step + 1)))
            progress(step + 1)
            ran_away = step >= FIRST_TO_JUDGE and averages[-1] > RAN_AWAY * min(averages[FIRST_TO_JUDGE:])
            if ran_away:
                break
    if len(averages) <= FIRST_TO_JUDGE:
        raise TrainingError(
            f"the loss is not finite after {len(averages)} steps at learning rates from {low:g} on; begin lower,"
            " or train in float32 (train.precision)"
        )
    rates = tuple(ramp.rate(step) for step in range(len(averages)))
    suggestion = steepest(np.array(rates), np.array(averages))
    return RangeTest(rates, tuple(averages), suggestion, ran_away)


def steepest(rates_S: FloatArray, losses_S: FloatArray) -> float:
    """The rate at which the loss falls fastest per factor of the rate, before it is least."""
    slope_S = np.gradient(losses_S, np.log(rates_S))
    last = max(int(losses_S.argmin()), FIRST_TO_JUDGE) + 1
    return float(rates_S[FIRST_TO_JUDGE:last][slope_S[FIRST_TO_JUDGE:last].argmin()])


def draw_range_test(test: RangeTest, path: Path) -> None:
    """A picture of the test: loss over learning rate, with the suggestion."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.semilogx(test.rates, test.losses)
    axes.axvline(test.suggestion, linestyle="--", label=f"steepest: lr0 {test.suggestion:.2g}")
    least = min(test.losses)
    axes.set_ylim(0.9 * least, min(max(test.losses), RAN_AWAY * least))
    axes.set(xlabel="learning rate", ylabel="loss, moving average")
    axes.legend()
    figure.savefig(path, dpi=120)


def _ignore(event: Event) -> None:
    """The test has no run whose events anybody waits for."""
