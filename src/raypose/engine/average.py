"""The exponential moving average of the weights, which is what gets validated, served and kept as `best`."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn


class WeightAverage:
    """A copy of a model whose floating-point parameters and buffers trail the original's.

    The decay of update number n is ema_decay * (1 - exp(-n / ema_tau)), so that the average forgets the random
    start quickly.
    """

    def __init__(self, model: nn.Module, *, decay: float, tau: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay
        self._tau = tau
        source, target = model.state_dict(), self.module.state_dict()
        names = [name for name, tensor in target.items() if tensor.is_floating_point()]
        self._pairs = [target[name] for name in names], [source[name] for name in names]

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Move towards the model; `number` counts updates from 1."""
        decay = self._decay * (1.0 - math.exp(-number / self._tau))
        averages, weights = self._pairs
        torch._foreach_lerp_(averages, weights, 1.0 - decay)
