"""The schedule against what Ultralytics' trainer does, step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raypose.config import TrainConfig
from raypose.engine.schedule import Schedule
from raypose.engine.step import image_size_of


def schedule(samples: int = 640, **settings: object) -> Schedule:
    train = TrainConfig.model_validate({"epochs": 10, "batch": 16, "optimizer": "SGD", **settings})
    total = math.ceil(train.epochs * samples / train.batch)
    return Schedule.of(train, samples=samples, total_steps=total, warmup_bias_lr=train.warmup_bias_lr)


def optimizer() -> torch.optim.Optimizer:
    weight, bias = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    groups = [{"params": [weight], "param_group": "weight"}, {"params": [bias], "param_group": "bias"}]
    return torch.optim.SGD(groups, lr=0.01, momentum=0.9)


def updates_by_definition(plan: Schedule, steps: int) -> list[int]:
    """An update follows as soon as enough batches have added up; how many that is grows during warm-up."""
    updates, last = [], -1
    for step in range(steps):
        wanted = plan.accumulate
        if step <= plan.warmup_steps and plan.warmup_steps:
            wanted = max(1, int(np.interp(step, [0, plan.warmup_steps], [1, plan.accumulate]).round()))
        if step - last >= wanted or step == plan.total_steps - 1:
            updates.append(step)
            last = step
    return updates


@given(
    samples=st.integers(16, 400), batch=st.sampled_from([1, 4, 16]), nbs=st.sampled_from([1, 16, 64, 100]),
    warmup=st.floats(0, 3), epochs=st.integers(1, 6),
)  # fmt: skip
def test_updates_happen_when_enough_batches_have_added_up(
    samples: int, batch: int, nbs: int, warmup: float, epochs: int
) -> None:
    plan = schedule(samples, batch=batch, nbs=nbs, warmup_epochs=warmup, epochs=epochs)
    found = [step for step in range(plan.total_steps) if plan.updates_at(step)]
    assert found == updates_by_definition(plan, plan.total_steps)
    assert found[-1] == plan.total_steps - 1


def test_warm_up_leads_biases_down_and_weights_up_to_the_schedule() -> None:
    plan, moved = schedule(warmup_epochs=2.0, momentum=0.937), optimizer()
    plan.apply(moved, 0)
    assert [group["lr"] for group in moved.param_groups] == [0.0, 0.1]
    assert moved.param_groups[0]["momentum"] == 0.8
    plan.apply(moved, plan.warmup_steps)
    expected = 0.01 * plan.factor(2)
    assert [group["lr"] for group in moved.param_groups] == pytest.approx([expected, expected])
    assert moved.param_groups[0]["momentum"] == pytest.approx(0.937)


def test_the_rate_changes_between_epochs_and_not_within() -> None:
    plan, moved = schedule(warmup_epochs=0.0), optimizer()
    rates = []
    for step in range(plan.total_steps):
        plan.apply(moved, step)
        rates.append(moved.param_groups[0]["lr"])
    assert len(set(rates)) == 10
    assert rates[0] == 0.01
    assert rates[-1] == pytest.approx(0.01 * ((1 - 9 / 10) * 0.99 + 0.01))


def test_a_cosine_falls_from_one_to_lrf() -> None:
    plan = schedule(cos_lr=True, lrf=0.1)
    assert plan.factor(0) == 1.0
    assert plan.factor(5) == pytest.approx(0.55)
    assert plan.factor(10) == pytest.approx(0.1)


def test_warm_up_leaves_the_last_epoch_alone() -> None:
    assert schedule(epochs=2, warmup_epochs=3.0).warmup_steps == 40
    assert schedule(epochs=1, warmup_epochs=3.0).warmup_steps == 0


def test_image_sizes_of_a_multi_scale_run_depend_on_seed_and_step_only() -> None:
    train = TrainConfig(imgsz=320, multi_scale=0.5)
    sizes = [image_size_of(train, step) for step in range(200)]
    assert sizes == [image_size_of(train, step) for step in range(200)]
    assert set(sizes) >= {160, 320, 480}
    assert all(size % 32 == 0 and 160 <= size <= 480 for size in sizes)
    assert {image_size_of(TrainConfig(imgsz=320), step) for step in range(5)} == {320}
