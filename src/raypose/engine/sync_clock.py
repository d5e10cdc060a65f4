"""How long a worker waits for the gradients of the others."""

from __future__ import annotations

import time

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from raypose.engine.world import World


class SyncClock:
    """How long a backward pass lasted after this worker's own gradients were done: the wait for the other workers.

    Gradients travel while earlier ones are still computed, so only what is left at the end costs time. Kernels of GPUs
    run after the program has gone on, and their waits overlap with them: nothing is measured there.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self._own_gradients_done: float | None = None
        self._hook: RemovableHandle | None = None
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if world.size > 1 and not world.device.startswith("cuda"):
            # Backward ends at the first layer.
            self._hook = trainable[0].register_post_accumulate_grad_hook(self._stop_own)  # type: ignore[no-untyped-call]

    def seconds_since_own(self) -> float:
        """After a backward pass: how long ago this worker's own part of it was done."""
        done, self._own_gradients_done = self._own_gradients_done, None
        return 0.0 if done is None else time.monotonic() - done

    def close(self) -> None:
        """Let go of the model."""
        if self._hook is not None:
            self._hook.remove()

    def _stop_own(self, _: torch.Tensor) -> None:
        self._own_gradients_done = time.monotonic()
