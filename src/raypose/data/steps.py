"""All samples of a worker, step after step, in even and little time however many lanes the worker has.

Calling `Plan.references` for each of 1,024 lanes takes ten times as long, and longer still in the steps in which all
lanes, being of one length, come to the ends of their windows together. Here a lane is read for a chunk of steps at a
time, a few lanes in each step, and the windows that come next are shuffled early, a few in each step.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from raypose.data.plan import REFERENCE, Plan

_CHUNK_STEPS = 64
_CHUNK_BYTES = 16 * 2**20
"""What is read ahead, of all lanes together."""


def worker_steps(plan: Plan, lanes: Sequence[int], first_step: int) -> Iterator[NDArray[np.void]]:
    """The samples of `lanes` in `first_step`, then in the step after it, and so on without end.

    What `plan.references(step, lane)` says, as REFERENCE records of shape (L, B): L lanes, B samples of each.
    The array is the caller's to keep.
    """
    chunk_steps = _chunk_steps(plan, len(lanes))
    shuffler = _Shuffler(plan, lanes, first_step, chunk_steps)
    row_L = np.arange(len(lanes))
    # A lane's chunk of C steps is renewed when its turn comes; until then the first one, which is shorter, must do.
    turn_L = row_L * chunk_steps // len(lanes)
    records_LCB = np.empty((len(lanes), chunk_steps, plan.micro_batch), REFERENCE)
    records_XB = records_LCB.reshape(-1, plan.micro_batch)
    for row in np.flatnonzero(turn_L).tolist():
        records_LCB[row, -turn_L[row] :] = _read(plan, lanes[row], first_step, int(turn_L[row]))
    for step in itertools.count(first_step):
        turn = (step - first_step) % chunk_steps
        for row in np.flatnonzero(turn_L == turn).tolist():
            records_LCB[row] = _read(plan, lanes[row], step, chunk_steps)
        shuffler.work(step)
        # `take` copies a micro-batch in one piece: a tenth of the time of records_LCB[row_L, ...].
        yield records_XB.take(row_L * chunk_steps + (turn - turn_L) % chunk_steps, axis=0)


def _chunk_steps(plan: Plan, lanes: int) -> int:
    """A chunk fits `_CHUNK_BYTES` and is a small part of a window, so that a window lasts for several chunks."""
    fitting = _CHUNK_BYTES // (lanes * plan.micro_batch * REFERENCE.itemsize)
    return max(1, min(_CHUNK_STEPS, fitting, _window_steps(plan) // 8))


def _window_steps(plan: Plan) -> int:
    """The steps that the shortest windows last: a lane's piece of an epoch is cut into windows of equal size."""
    longest_piece = -(-plan.samples // plan.lanes)
    return longest_piece // -(-longest_piece // plan.window) // plan.micro_batch


def _read(plan: Plan, lane: int, step: int, steps: int) -> NDArray[np.void]:
    return plan.read(lane, step * plan.micro_batch, steps * plan.micro_batch).reshape(steps, plan.micro_batch)


class _Shuffler:
    """Has each lane's next window shuffled while the lane reads the one before it, each lane at a time of its own.

    No sooner than a chunk after a window's first step: a plan keeps two windows for each lane, and the one that was
    read last may still be asked for partners.
    """

    def __init__(self, plan: Plan, lanes: Sequence[int], first_step: int, chunk_steps: int) -> None:
        self._plan = plan
        self._lanes = lanes
        self._next_item_L = np.array([plan.prepare(lane, first_step * plan.micro_batch) for lane in lanes])
        spread_steps = _window_steps(plan) - 3 * chunk_steps
        self._lead_steps_L = 2 * chunk_steps + np.arange(len(lanes)) * max(spread_steps, 0) // len(lanes)
        self._due_step_L = self._next_item_L // plan.micro_batch - self._lead_steps_L

    def work(self, step: int) -> None:
        for row in np.flatnonzero(self._due_step_L <= step).tolist():
            item = max(int(self._next_item_L[row]), step * self._plan.micro_batch)
            self._next_item_L[row] = next_item = self._plan.prepare(self._lanes[row], item)
            self._due_step_L[row] = next_item // self._plan.micro_batch - self._lead_steps_L[row]
