"""Notices losses and gradients that are not finite, on all workers after the same step."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from raypose.engine.world import World


# L lanes (virtual workers) of this worker, T loss terms.
@dataclass(frozen=True, slots=True)
class BadStep:
    """A step of which no weights should be kept."""

    step: int
    losses_LT: torch.Tensor
    in_gradient_only: bool
    """All losses are finite: what broke the gradient may also be an earlier batch of the same update."""


class LossGuard:
    """Judges each step by what all workers know of it, so that they agree.

    Judged at once, a step can be dropped; on a GPU that costs a wait for it. Otherwise the verdicts stay on the device
    until `first_bad` reads them all together, and the program runs ahead of the GPU as it would without them.
    """

    def __init__(self, world: World, *, at_once: bool) -> None:
        self._world = world
        self._at_once = at_once
        self._unread: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    @torch.no_grad()
    def drops(self, step: int, losses_LT: torch.Tensor, gradient_norm: torch.Tensor | None) -> BadStep | None:
        """The step, if it is judged at once and is not to move any weights. All workers call it in every step."""
        norm = losses_LT.new_zeros(()) if gradient_norm is None else gradient_norm.to(losses_LT.dtype)
        # NaN and infinity survive every sum: what is wrong on one worker is wrong in the total of all.
        finite_2 = self._world.add_up(torch.stack([losses_LT.sum(), norm])).isfinite()
        if not self._at_once:
            self._unread.append((step, finite_2, losses_LT))
            return None
        return _verdict(step, finite_2.tolist(), losses_LT)

    def first_bad(self) -> BadStep | None:
        """The first step since the last call that was bad and not dropped. All workers call it after the same step."""
        unread, self._unread = self._unread, []
        if not unread:
            return None
        verdicts = torch.stack([finite_2 for _, finite_2, _ in unread]).tolist()
        bad = (_verdict(step, finite, losses) for (step, _, losses), finite in zip(unread, verdicts, strict=True))
        return next((one for one in bad if one is not None), None)


def _verdict(step: int, finite: list[bool], losses_LT: torch.Tensor) -> BadStep | None:
    losses_are, gradient_is = finite
    if losses_are and gradient_is:
        return None
    return BadStep(step, losses_LT, in_gradient_only=losses_are)
