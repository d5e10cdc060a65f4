from __future__ import annotations

import hashlib
import pickle
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose.data.plan import Plan, SampleRef, ShardUse, sample_rng
from raypose.data.ring import random_bits, sort_order
from raypose.errors import ConfigError, DataError

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    lanes = draw(st.integers(1, 5))
    return Plan(
        draw(SIZES),
        seed=draw(st.integers(0, 2**40)),
        batch=lanes * draw(st.integers(1, 6)),
        lanes=lanes,
        window=draw(st.integers(1, 20)),
    )


def read(plan: Plan, first: int, last: int) -> list[SampleRef]:
    return [ref for step in range(first, last) for lane in range(plan.lanes) for ref in plan.references(step, lane)]


def every_sample(sizes: list[int]) -> set[tuple[int, int]]:
    return {(shard, index) for shard, size in enumerate(sizes) for index in range(size)}


@given(SIZES, st.integers(0, 99), st.integers(1, 5), st.integers(1, 6), st.integers(1, 20))
def test_every_epoch_holds_every_sample_once(
    sizes: list[int], seed: int, lanes: int, micro_batch: int, window: int
) -> None:
    plan = Plan(sizes, seed=seed, batch=lanes * micro_batch, lanes=lanes, window=window)
    seen = Counter((ref.epoch, ref.shard, ref.index) for ref in read(plan, 0, plan.steps_of(3)))
    assert set(seen.values()) == {1}
    for epoch in range(3):
        assert {(shard, index) for e, shard, index in seen if e == epoch} == every_sample(sizes)


@given(plans(), st.integers(0, 5))
def test_an_epoch_is_complete_at_its_end_step_and_not_before(plan: Plan, epoch: int) -> None:
    end = plan.epoch_end_step(epoch)
    assert end == -(-(epoch + 1) * plan.samples // plan.batch)
    assert plan.epochs_completed(end) >= epoch + 1
    assert plan.epochs_completed(end - 1) <= epoch
    assert end == plan.steps_of(epoch + 1)


@given(plans(), st.integers(1, 12))
def test_lanes_share_every_prefix_of_epochs_to_within_one_sample(plan: Plan, epochs: int) -> None:
    counts = [
        sum(ref.epoch < epochs for s in range(plan.steps_of(epochs)) for ref in plan.references(s, lane))
        for lane in range(plan.lanes)
    ]
    total = epochs * plan.samples
    assert counts == [-(-(total - lane) // plan.lanes) for lane in range(plan.lanes)]


@given(plans(), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), max_size=10))
def test_random_access_equals_reading_in_order(plan: Plan, places: list[tuple[int, int]]) -> None:
    in_order = {(step, lane): plan.references(step, lane) for step in range(31) for lane in range(plan.lanes)}
    elsewhere = pickle.loads(pickle.dumps(plan))
    for step, lane in places:
        lane %= plan.lanes  # noqa: PLW2901
        assert elsewhere.references(step, lane) == in_order[step, lane]


@given(plans())
def test_a_lane_does_not_depend_on_which_lanes_are_read_beside_it(plan: Plan) -> None:
    alone = pickle.loads(pickle.dumps(plan))
    together = [[plan.references(step, lane) for lane in range(plan.lanes)] for step in range(8)]
    last = plan.lanes - 1
    assert [alone.references(step, last) for step in range(8)] == [refs[last] for refs in together]


@given(plans(), st.integers(0, 20), st.integers(0, 2**32))
def test_partners_come_from_the_window_of_their_sample(plan: Plan, step: int, seed: int) -> None:
    ref = plan.references(step, plan.lanes - 1)[0]
    partners = plan.partners(ref, np.random.default_rng(seed), 3)
    assert partners == plan.partners(ref, np.random.default_rng(seed), 3)
    for partner in partners:
        assert (partner.epoch, partner.lane, partner.window) == (ref.epoch, ref.lane, ref.window)
    epoch_refs = read(plan, plan.epoch_end_step(ref.epoch - 1) - 1 if ref.epoch else 0, plan.epoch_end_step(ref.epoch))
    assert set(partners) <= set(epoch_refs)


def test_epochs_and_seeds_change_the_order() -> None:
    sizes = [50] * 20
    plan = Plan(sizes, seed=1, batch=100, lanes=2, window=64)
    other = Plan(sizes, seed=2, batch=100, lanes=2, window=64)
    first, second = ([(ref.shard, ref.index) for ref in read(plan, 10 * e, 10 * e + 10)] for e in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second
    assert first != [(ref.shard, ref.index) for ref in read(other, 0, 10)]


def test_the_order_is_the_one_that_earlier_versions_gave() -> None:
    """A changed order would silently break the exact resume of every running training."""
    plan = Plan([3, 1, 4], seed=7, batch=4, lanes=2, window=3)
    assert [(ref.epoch, ref.shard, ref.index) for ref in read(plan, 0, 3)] == [
        *((0, 2, 0), (0, 0, 2), (0, 2, 3), (0, 1, 0)),
        *((0, 2, 1), (0, 2, 2), (0, 0, 0), (0, 0, 1)),
        *((1, 0, 1), (1, 0, 0), (1, 2, 1), (1, 2, 0)),
    ]


@pytest.mark.parametrize(
    ("digest", "sizes", "steps", "settings"),
    [
        ("10e89d4bc044dc09", [3, 1, 4], range(40), {"seed": 7, "batch": 4, "lanes": 2, "window": 3}),
        ("26dfc98d4383da13", [5, 0, 2, 9, 0, 1], range(60), {"seed": 2**40, "batch": 15, "lanes": 5, "window": 1}),
        ("593ee09d0925bd54", [2], range(30), {"seed": 1, "batch": 12, "lanes": 4, "window": 8}),
        (
            "4b18228763b90989",
            [100 + number % 7 for number in range(300)],
            range(0, 9_000, 251),
            {"seed": 0, "batch": 48, "lanes": 3, "window": 700},
        ),
        (
            "925dff3b1f93b093",
            [70_000, 10, 90_000],
            range(0, 40_000, 4_001),
            {"seed": 5, "batch": 8, "lanes": 2, "window": 66_000},
        ),
        (
            "d3fb2bcc8648dd20",
            [10_000] * 100_000,
            [0, 61_034, 61_035, 61_036, 90_000],
            {"seed": 3, "batch": 16 * 1024, "lanes": 1024, "window": 100},
        ),
    ],
)
def test_orders_and_partners_of_small_and_huge_sets_are_the_ones_that_earlier_versions_gave(
    digest: str, sizes: list[int], steps: Sequence[int], settings: dict[str, Any]
) -> None:
    plan = Plan(sizes, **settings)
    found = hashlib.sha256()
    for step in steps:
        for lane in range(plan.lanes):
            for ref in plan.references(step, lane):
                found.update(f"{ref.epoch},{ref.shard},{ref.index},{ref.lane},{ref.window};".encode())
                for partner in plan.partners(ref, np.random.default_rng((step, lane)), 3):
                    found.update(f"{partner.shard},{partner.index};".encode())
    assert found.hexdigest()[:16] == digest


def uses_until(plan: Plan, first_step: int, last_step: int, lane: int) -> list[ShardUse]:
    return list(takewhile(lambda use: use.first_step <= last_step, plan.shards_ahead(first_step, lane)))


def shards_in_use(plan: Plan, step: int, lane: int) -> set[int]:
    """What a step opens: the windows of its samples, read whole."""
    windows = {(ref.epoch, ref.window) for ref in plan.references(step, lane)}
    return {
        ref.shard
        for s in range(max(0, step - plan.window - 1), step + plan.window + 2)
        for ref in plan.references(s, lane)
        if (ref.epoch, ref.window) in windows
    }


@given(plans(), st.integers(0, 30), st.integers(0, 4))
def test_shards_ahead_are_those_that_samples_and_partners_need(plan: Plan, start: int, lane: int) -> None:
    lane %= plan.lanes
    ahead = uses_until(plan, start, start + 20, lane)
    assert [use.first_step for use in ahead] == sorted(use.first_step for use in ahead)
    for step in range(start, start + 20):
        needed = {use.shard for use in ahead if use.first_step <= step <= use.last_step}
        assert needed == shards_in_use(plan, step, lane) == plan.shards_needed(step, lane)


@given(plans())
def test_a_lane_passes_each_shard_once_an_epoch(plan: Plan) -> None:
    for lane in range(plan.lanes):
        end = plan.steps_of(3)
        # The windows that are open at the end, read whole, may reach into one more epoch.
        refs = [ref for step in range(end + plan.window + 2) for ref in plan.references(step, lane)]
        times = Counter(use.shard for use in uses_until(plan, 0, end, lane))
        for shard, passes in times.items():
            epochs = len({ref.epoch for ref in refs if ref.shard == shard})
            assert passes <= 2 * max(epochs, 1)  # twice where its piece ends in the shard it began in


def test_reading_shards_ahead_of_a_billion_samples_shuffles_nothing() -> None:
    plan = Plan([10_000] * 100_000, seed=3, batch=1024, lanes=1024, window=8192)
    ahead = uses_until(plan, 0, plan.steps_of(2), lane=1023)
    assert 2 * 97 <= len(ahead) <= 2 * 99  # a lane's piece is 97.7 shards long
    assert not plan._windows


def test_threads_may_share_a_plan() -> None:
    plan = Plan([50] * 40, seed=1, batch=16, lanes=2, window=20)
    expected = read(Plan([50] * 40, seed=1, batch=16, lanes=2, window=20), 0, 250)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(lambda _: read(plan, 0, 250), range(4)))


def test_a_lane_opens_few_shards_at_a_time() -> None:
    plan = Plan([100] * 1000, seed=0, batch=64, lanes=4, window=400)
    refs = [ref for step in range(25) for ref in plan.references(step, 1)]
    assert len({ref.window for ref in refs}) <= 2
    assert len({ref.shard for ref in refs}) <= 10


def test_planning_a_billion_samples_for_64_lanes_takes_little_memory() -> None:
    tracemalloc.start()
    plan = Plan([10_000] * 100_000, seed=3, batch=64 * 16, lanes=64, window=8192)
    for step in (0, 5_000, plan.steps_of(2) - 1):
        for lane in range(64):
            plan.references(step, lane)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 20 * 2**20


def test_sample_rng_differs_between_samples_and_epochs_only() -> None:
    ref = SampleRef(epoch=1, shard=2, index=3, lane=0, window=0)
    draws = {
        sample_rng(seed, SampleRef(epoch, shard, index, 0, 0)).integers(2**60)
        for seed, epoch, shard, index in [(0, 1, 2, 3), (1, 1, 2, 3), (0, 2, 2, 3), (0, 1, 3, 3), (0, 1, 2, 4)]
    }
    assert len(draws) == 5
    elsewhere = SampleRef(epoch=1, shard=2, index=3, lane=7, window=5)
    assert sample_rng(0, ref).random() == sample_rng(0, elsewhere).random()


@pytest.mark.parametrize(("batch", "lanes"), [(10, 4), (0, 1), (-4, 2), (4, 0), (4, -2)])
def test_a_batch_that_lanes_cannot_share_is_refused(batch: int, lanes: int) -> None:
    with pytest.raises(ConfigError, match=f"batch of {batch} cannot be divided among {lanes} lanes"):
        Plan([5], seed=0, batch=batch, lanes=lanes, window=8)


def test_a_window_without_samples_is_refused() -> None:
    with pytest.raises(ConfigError, match="window is 0, expected at least 1 sample"):
        Plan([5], seed=0, batch=4, lanes=4, window=0)


def test_shards_without_samples_are_refused() -> None:
    with pytest.raises(DataError, match="2 shards hold no samples"):
        Plan([0, 0], seed=0, batch=4, lanes=4, window=8)


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9) | st.integers(0, 9).map(lambda n: n << 33)))
def test_random_words_are_ranked_as_numpys_stable_sort_ranks_them(words: list[int]) -> None:
    bits = np.array(words, np.uint64)
    assert np.array_equal(sort_order(bits), np.argsort(bits, kind="stable"))


def test_many_random_words_are_ranked_as_numpys_stable_sort_ranks_them() -> None:
    for size in (8_192, 8_193, 100_000):
        bits = random_bits((size,), size)
        assert np.array_equal(sort_order(bits), np.argsort(bits, kind="stable"))
