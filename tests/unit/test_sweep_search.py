"""How trials are proposed and ended: on values that are given."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose.config import load_config
from raypose.errors import ConfigError
from raypose.tune.bandit import gains_of
from raypose.tune.checks import Sweep
from raypose.tune.front import crowded_order, front
from raypose.tune.importance import importances
from raypose.tune.population import takeovers
from raypose.tune.records import Exploit, Measured, Status, Trial
from raypose.tune.room import room_for
from raypose.tune.schedulers import Asha, Hyperband, Median
from raypose.tune.schema import Domain
from raypose.tune.searchers import Bohb, Nsga2, RandomSearch, Tpe
from raypose.tune.warm import points_of
from tests.simulated_trials import simulated_sweep

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


def test_asha_lets_a_trial_go_on_that_comes_late_to_a_rung_and_is_the_best() -> None:
    others = [trial(number, 0.2, 0.8, 0.8) for number in range(1, 4)]
    assert asha().verdict(Trial(0, {}, measured=(Measured(3, 3, 0.9),)), others) is None
    late = Trial(0, {}, measured=(Measured(1, 1, 0.3), Measured(3, 3, 0.9)))  # rung 2 lies between
    assert asha().verdict(late, others) is None


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


def test_bohb_compares_at_a_rung_and_learns_where_the_good_values_lie() -> None:
    pytest.importorskip("optuna", reason="optuna is an extra: pip install 'raypose[tune]'")
    scheduler = {"use": "hyperband", "min_epochs": 1, "reduction": 3}
    sweep = simulated_sweep(Path(), space=SPACE, searcher={"use": "bohb"}, scheduler=scheduler)
    trials: list[Trial] = []
    for number in range(40):
        parameters = Bohb(sweep.config, 6).propose(number, trials)
        value = -abs(math.log10(parameters["train.lr0"]) + 2)  # best at 0.01
        # Half of the trials end at epoch 1, and those that go on do not get better.
        values = (value,) if number % 2 else (value, value, value)
        measured = tuple(Measured(epoch, epoch, one) for epoch, one in enumerate(values, 1))
        trials.append(Trial(number, parameters, "stopped", measured=measured))
    first, last = ([one.measured[0].value for one in part] for part in (trials[:6], trials[-12:]))
    assert sum(last) / 12 > sum(first) / 6
    assert Bohb(sweep.config, 6).propose(40, trials) == Bohb(sweep.config, 6).propose(40, trials)


def test_hyperband_deals_trials_out_among_brackets_that_choose_ever_later_and_one_that_never_does() -> None:
    scheduler = {"use": "hyperband", "min_epochs": 1, "reduction": 3}
    hyperband = Hyperband(simulated_sweep(Path(), epochs=10, scheduler=scheduler).config, 10)
    of_bracket: dict[int, list[int]] = {}
    for number in range(400):
        of_bracket.setdefault(hyperband.bracket_of(number), []).append(number)
    assert sorted(of_bracket) == [0, 1, 2, 3]  # rungs at 1, 3 and 9, and none
    sizes = [len(of_bracket[bracket]) for bracket in range(4)]
    assert sizes[0] > sizes[1] > sizes[2]
    for bracket, expected in enumerate(([1, 3, 9], [3, 9], [9], [])):
        *good, poor = of_bracket[bracket][:9]
        ended = []
        for epochs in range(1, 10):
            others = [trial(number, *[0.5] * epochs) for number in good]
            if hyperband.verdict(trial(poor, *[0.1] * epochs), others):
                ended.append(epochs)
        assert ended == expected
    # Those of other brackets are no rivals.
    others = [trial(number, 0.5) for number in of_bracket[1][:9]]
    assert hyperband.verdict(trial(of_bracket[0][0], 0.1), others) is None


def test_nsga2_closes_in_on_the_front_of_two_metrics() -> None:
    """A known front: rates of 1e-3 are best at one metric, 1e-2 at the other; between them none is better in both."""
    sweep = simulated_sweep(
        Path(), space=SPACE, searcher={"use": "nsga2", "startup_trials": 8}, metric="pose_ap", against={"cost": "min"}
    )
    trials: list[Trial] = []
    for number in range(60):
        parameters = Nsga2(sweep.config).propose(number, trials)
        assert ("train.momentum" in parameters) == (parameters["train.optimizer"] == "SGD")
        power = math.log10(parameters["train.lr0"])
        value, cost = -abs(power + 3), abs(power + 2)
        trials.append(Trial(number, parameters, "finished", measured=(Measured(1, 1, value),), metrics={"cost": cost}))
    between = [-3.05 <= math.log10(one.parameters["train.lr0"]) <= -1.95 for one in trials]
    assert sum(between[:8]) <= 4 < sum(between[-20:]) - 4
    assert Nsga2(sweep.config).propose(60, trials) == Nsga2(sweep.config).propose(60, trials)


def test_tpe_takes_two_metrics() -> None:
    pytest.importorskip("optuna", reason="optuna is an extra: pip install 'raypose[tune]'")
    sweep = simulated_sweep(Path(), searcher={"use": "tpe", "startup_trials": 2}, against={"cost": "min"})
    ended = [
        Trial(number, {"train.lr0": 10.0**-power}, "finished", measured=(Measured(1, 1, 0.1),), metrics={"cost": 1.0})
        for number, power in enumerate((2, 3, 4))
    ]
    running = Trial(3, {"train.lr0": 0.005})
    assert 1e-5 <= Tpe(sweep.config).propose(4, [*ended, running])["train.lr0"] <= 0.1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20))
def test_the_front_is_what_nobody_is_better_than(values: list[tuple[int, int]]) -> None:
    """The first more is better, the second less: compared with the definition."""

    def beats(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return one != other and one[0] >= other[0] and one[1] <= other[1]

    expected = [place for place, one in enumerate(values) if not any(beats(other, one) for other in values)]
    assert front(values, ("max", "min")) == expected
    assert sorted(crowded_order(values, ("max", "min"))[: len(expected)]) == expected
    assert front([*values, (math.nan, math.nan)], ("max", "min")) == expected


def test_a_warm_start_tells_the_searcher_what_earlier_trials_of_the_same_space_came_to() -> None:
    pytest.importorskip("optuna", reason="optuna is an extra: pip install 'raypose[tune]'")
    space = {"train.lr0": {"loguniform": [1e-5, 1e-1]}}
    sweep = simulated_sweep(Path(), space=space, searcher={"use": "tpe"})

    def ended(number: int, lr0: float, status: Status = "finished", **others: float) -> Trial:
        measured = (Measured(1, 1, -abs(math.log10(lr0) + 2)),)
        return Trial(number, {"train.lr0": lr0, **others}, status, measured=measured)

    earlier = [ended(number, 10 ** (-1.0 - number / 10)) for number in range(40)]
    outside = [ended(40, 0.5), ended(41, 0.01, momentum=0.9), ended(42, 0.01, "failed"), ended(43, 0.01, "running")]
    prior = points_of(sweep.config, "pose_ap", [*earlier, *outside], "pose_ap")
    assert [point.parameters for point in prior] == [one.parameters for one in earlier]
    first = [Tpe(sweep.config, prior).propose(number, [])["train.lr0"] for number in range(10)]
    assert sum(1e-3 < one < 1e-1 for one in first) >= 8  # at random it would be half of them
    assert points_of(sweep.config, "box_ap", earlier, "pose_ap") == []


def test_pb2_learns_from_what_settings_have_brought_and_tries_no_two_alike() -> None:
    """Members at rates of 1e-3 gain much in every epoch, others little: the next ones are near 1e-3."""
    scheduler = {"use": "pb2", "every_epochs": 1, "quantile": 0.25}
    config = simulated_sweep(Path(), scheduler=scheduler, budget={"trials": 12}).config

    def member(number: int, power: float) -> Trial:
        speed = math.exp(-((power + 3) ** 2))
        measured = tuple(Measured(epoch, epoch, 0.1 * speed * epoch) for epoch in range(1, 4))
        return Trial(number, {"train.lr0": 10.0**power}, "paused", measured=measured)

    members = [member(number, -5 + number / 3) for number in range(12)]
    plan = takeovers(config, members, 3)
    assert plan == takeovers(config, members, 3)
    assert len(plan) == 3
    rates = [one.parameters["train.lr0"] for one in plan]
    assert all(10**-4 < rate < 10**-2 for rate in rates), rates
    assert len(set(rates)) == 3


def test_pb2_counts_what_was_given_up_under_the_settings_that_it_was_lived_with() -> None:
    config = simulated_sweep(Path(), scheduler={"use": "pb2"}, budget={"trials": 2}).config
    own = (Measured(1, 1, 0.1), Measured(2, 2, 0.2))
    theirs = (Measured(1, 1, 0.3), Measured(2, 2, 0.5), Measured(3, 3, 0.6))
    exploit = Exploit(2, 1, "step", "", {"train.lr0": 0.02}, own)
    target = Trial(0, {"train.lr0": 0.01}, "paused", measured=theirs, exploits=(exploit,))
    told = [
        (one.epoch, one.before, one.parameters["train.lr0"], round(one.gain, 3)) for one in gains_of(config, [target])
    ]
    assert told == [(0, 0.1, 0.01, 0.0), (1, 0.1, 0.01, 0.1), (2, 0.5, 0.02, 0.1)]


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
    room = room_for(simulated_sweep(Path(), **settings), [resources])
    assert (room.slots, room.cpus_per_worker) == expected


@pytest.mark.parametrize(
    ("resources", "workers", "expected"),
    [
        ({}, 1, "the cluster has 0 CPUs now, and one trial takes 1; set concurrency to a number"),
        ({"CPU": 2}, 4, "the cluster has 2 CPUs now, and one trial takes 4"),
        ({"CPU": 64, "GPU": 1}, 2, "the cluster has 1 GPUs now, and one trial takes 2"),
    ],
)
def test_auto_is_refused_where_there_is_no_room_for_one_trial(
    resources: dict[str, float], workers: int, expected: str
) -> None:
    with pytest.raises(ConfigError, match=f"^concurrency: auto: {expected}"):
        room_for(with_workers(workers), [resources])
    assert room_for(with_workers(workers, concurrency=2), [resources]).slots == 2


def test_auto_runs_one_trial_that_makes_do_with_fewer_workers_than_it_may_take() -> None:
    assert room_for(with_workers({"min": 1, "max": 4}), [{"CPU": 2}]).slots == 1


def with_workers(workers: int | dict[str, int], **settings: object) -> Sweep:
    plain = simulated_sweep(Path(), **settings)
    return Sweep(plain.config, load_config(None, ["data.train=none", "data.val=none", f"scaling.workers={workers}"]))
