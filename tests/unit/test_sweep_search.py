"""How trials are proposed and ended: on values that are given."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulated_trials import simulated_sweep

from raypose.tune.importance import importances
from raypose.tune.records import Measured, Trial
from raypose.tune.room import room_for
from raypose.tune.schedulers import Asha, Median
from raypose.tune.schema import Domain
from raypose.tune.searchers import RandomSearch, Tpe

SPACE = {
    "train.optimizer": {"choice": ["SGD", "AdamW"]},
    "train.lr0": {"loguniform": [1e-5, 1e-1]},
    "train.momentum": {"uniform": [0.5, 0.95], "when": {"train.optimizer": "SGD"}},
    "augment.close_mosaic": {"randint": [0, 9]},
}


def trial(number: int, *values: float) -> Trial:
    return Trial(number, {}, measured=tuple(Measured(epoch, epoch, v) for epoch, v in enumerate(values, 1)))


def asha(mode: str = "max", **settings: object) -> Asha:
    scheduler = {"use": "asha", "min_epochs": 1, "reduction": 2, **settings}
    return Asha(simulated_sweep(Path(), mode=mode, scheduler=scheduler).config)


def test_asha_ends_who_is_not_among_the_best_share_at_a_rung() -> None:
    others = [trial(0, 0.5), trial(1, 0.6), trial(2, 0.7)]
    verdict = asha().verdict(trial(3, 0.4), others)
    assert verdict == "rung of epoch 1: 3 of 3 others were better, the best 2 go on"
    assert asha().verdict(trial(3, 0.65), others) is None


def test_asha_lets_the_first_at_a_rung_go_on_and_judges_nobody_between_rungs() -> None:
    assert asha().verdict(trial(0, 0.1), []) is None
    others = [trial(1, 0.8, 0.9, 0.9), trial(2, 0.8, 0.9, 0.9)]
    assert asha().verdict(trial(0, 0.8, 0.1, 0.1), others) is None  # epoch 3 is no rung, and its best at 1 was 0.8
    assert asha().verdict(trial(0, 0.1, 0.1), others) is not None  # epoch 2 is


def test_asha_judges_at_the_first_validation_beyond_a_rung() -> None:
    late = Trial(0, {}, measured=(Measured(3, 3, 0.1),))
    assert asha().verdict(late, [trial(1, 0.2, 0.8), trial(2, 0.2, 0.8)]) is not None


def test_asha_keeps_low_values_where_less_is_better_and_ends_what_is_not_a_number() -> None:
    others = [trial(0, 0.5), trial(1, 0.6), trial(2, 0.7)]
    assert asha("min").verdict(trial(3, 0.4), others) is None
    assert asha("min").verdict(trial(3, 0.9), others) is not None
    assert asha().verdict(trial(3, math.nan), others) is not None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_asha_never_ends_the_best_so_far(values: list[float]) -> None:
    trials = [trial(number, value) for number, value in enumerate(values)]
    best = max(trials, key=lambda one: one.measured[0].value)
    assert asha().verdict(best, [one for one in trials if one is not best]) is None


def test_the_median_rule_waits_for_company_and_ends_who_never_came_up_to_the_others() -> None:
    config = simulated_sweep(Path(), scheduler={"use": "median", "min_trials": 2, "min_epochs": 2}).config
    others = [trial(0, 0.2, 0.4), trial(1, 0.4, 0.6), trial(2, 0.3, 0.5)]
    assert Median(config).verdict(trial(3, 0.1, 0.2), others[:1]) is None
    assert Median(config).verdict(trial(3, 0.1), others) is None
    assert Median(config).verdict(trial(3, 0.1, 0.2), others) == (
        "epoch 2: 0.2 is worse than 0.4, the median of 3 others"
    )
    assert Median(config).verdict(trial(3, 0.1, 0.45), others) is None


def test_random_draws_do_not_depend_on_what_was_measured() -> None:
    search = RandomSearch(simulated_sweep(Path(), space=SPACE).config)
    assert search.propose(5, []) == search.propose(5, [trial(0, 0.3)])
    assert search.propose(5, []) != search.propose(6, [])


def test_tpe_learns_where_the_good_values_lie_and_proposes_the_same_again_after_a_restart() -> None:
    pytest.importorskip("optuna", reason="optuna is an extra: pip install 'raypose[tune]'")
    sweep = simulated_sweep(Path(), space=SPACE, searcher={"use": "tpe", "startup_trials": 8})
    trials: list[Trial] = []
    for number in range(30):
        parameters = Tpe(sweep.config).propose(number, trials)
        assert ("train.momentum" in parameters) == (parameters["train.optimizer"] == "SGD")
        value = -abs(math.log10(parameters["train.lr0"]) + 2)  # best at 0.01
        trials.append(Trial(number, parameters, "finished", measured=(Measured(1, 1, value),)))
    first, last = ([one.measured[0].value for one in part] for part in (trials[:8], trials[-8:]))
    assert sum(last) / 8 > sum(first) / 8
    assert Tpe(sweep.config).propose(30, trials) == Tpe(sweep.config).propose(30, trials)


def test_importance_finds_the_setting_that_decides() -> None:
    domains = {key: Domain.model_validate(value) for key, value in SPACE.items()}
    search = RandomSearch(simulated_sweep(Path(), space=SPACE).config)
    drawn = [search.propose(number, []) for number in range(40)]
    found = importances(domains, drawn, [-abs(math.log10(one["train.lr0"]) + 2) for one in drawn])
    assert next(iter(found)) == "train.lr0"
    assert found["train.lr0"] > 0.5
    assert found["augment.close_mosaic"] < 0.3
    assert importances(domains, drawn[:3], [1.0, 2.0, 3.0]) == {}


@pytest.mark.parametrize(
    ("resources", "settings", "expected"),
    [
        ({"CPU": 2}, {}, (2, 1.0)),
        ({"CPU": 16}, {}, (8, 2.0)),
        ({"CPU": 64, "GPU": 8}, {}, (8, 8.0)),
        ({"CPU": 8}, {"concurrency": 2}, (2, 4.0)),
        ({"CPU": 1}, {"concurrency": 3}, (3, 1.0)),
    ],
)
def test_room_is_what_the_cluster_has_unless_the_sweep_says_otherwise(
    resources: dict[str, float], settings: dict[str, object], expected: tuple[int, float]
) -> None:
    room = room_for(simulated_sweep(Path(), **settings), resources)
    assert (room.slots, room.cpus_per_worker) == expected
