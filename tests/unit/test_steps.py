from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose.data import plan as plan_module
from raypose.data.plan import Plan, SampleRef, sample_refs
from raypose.data.ring import random_order
from raypose.data.steps import worker_steps
from raypose.engine.world import World


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 70),
    st.integers(0, 60),
    st.data(),
)
def test_a_workers_steps_are_the_references_of_its_lanes(
    sizes: list[int], lanes: int, micro_batch: int, window: int, first_step: int, data: st.DataObject
) -> None:
    plan = Plan(sizes, seed=9, batch=lanes * micro_batch, lanes=lanes, window=window)
    own = data.draw(st.lists(st.integers(0, lanes - 1), min_size=1, max_size=lanes, unique=True))
    steps = itertools.islice(worker_steps(plan, own, first_step), 50)
    for step, records_LB in enumerate(steps, first_step):
        assert records_LB.shape == (len(own), micro_batch)
        for lane, records_B in zip(own, records_LB, strict=True):
            assert sample_refs(records_B) == plan.references(step, lane)


def test_steps_keep_their_samples_when_later_ones_are_read() -> None:
    plan = Plan([500] * 9, seed=4, batch=4, lanes=4, window=400)
    kept = list(itertools.islice(worker_steps(plan, range(4), 0), 300))
    for step, records_LB in enumerate(kept):
        assert [sample_refs(records_B) for records_B in records_LB] == [plan.references(step, v) for v in range(4)]


def test_each_window_is_shuffled_once_and_few_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled: Counter[tuple[Any, ...]] = Counter()

    def counted(entropy: tuple[int, ...], size: int) -> np.ndarray:
        shuffled[entropy] += 1
        return random_order(entropy, size)

    monkeypatch.setattr(plan_module, "random_order", counted)
    plan = Plan([1_000] * 600, seed=0, batch=60, lanes=60, window=1_000)
    steps = worker_steps(plan, range(60), first_step=123)
    next(steps)
    in_step = []
    for _ in range(12_000):  # from one epoch into the next
        before = shuffled.total()
        next(steps)
        in_step.append(shuffled.total() - before)
    assert set(shuffled.values()) == {1}
    assert max(in_step) <= 2
    assert shuffled.total() >= 60 * 12


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 70),
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 12), st.integers(0, 5)), min_size=1, max_size=6),
)
def test_any_history_of_workers_and_kills_reads_what_one_uninterrupted_worker_reads(
    sizes: list[int], lanes: int, micro_batch: int, window: int, history: list[tuple[int, int, int]]
) -> None:
    def new_plan() -> Plan:
        return Plan(sizes, seed=5, batch=lanes * micro_batch, lanes=lanes, window=window)

    read: list[SampleRef] = []
    step = 0
    for workers, steps, unsaved_steps in history:
        size = min(workers, lanes)
        own_steps = [
            list(itertools.islice(worker_steps(new_plan(), World(rank, size).lanes(lanes), step), steps))
            for rank in range(size)
        ]
        # Killed: what was read since the last checkpoint is read again by whoever comes next.
        saved_steps = max(0, steps - unsaved_steps)
        for of_workers in list(zip(*own_steps, strict=True))[:saved_steps]:
            read.extend(sample_refs(np.concatenate(of_workers).reshape(-1)))
        step += saved_steps

    alone = new_plan()
    assert read == [ref for s in range(step) for lane in range(lanes) for ref in alone.references(s, lane)]
