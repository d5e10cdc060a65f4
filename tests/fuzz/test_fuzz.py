"""A short fuzz run in the suite, and proof that it would notice. `python -m tests.fuzz.run` is the long one."""

from __future__ import annotations

import random

import pytest

from tests.fuzz import targets
from tests.fuzz.mutate import mutate_value
from tests.fuzz.run import fuzz, run_case

CASES = 300


def test_damaged_files_end_in_data_errors_only() -> None:
    outcome = fuzz(seed=2026, cases=CASES)
    assert outcome.faults == []
    assert outcome.cases == dict.fromkeys(targets.TARGETS, CASES)


def test_the_run_names_the_case_in_which_something_else_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_now_and_then(rng: random.Random) -> None:
        if rng.random() < 0.1:
            raise KeyError("found")

    monkeypatch.setitem(targets.TARGETS, "label", fails_now_and_then)
    outcome = fuzz(seed=1, cases=60)
    assert outcome.faults and "--target label --seed 1 --only " in outcome.faults[0]
    number = int(outcome.faults[0].split("--only ")[1].split(":")[0])
    with pytest.raises(KeyError, match="found"):
        run_case("label", 1, number)


def test_equal_seeds_damage_equally() -> None:
    value = {"a": [1, 2, {"b": b"bytes"}], "c": "text"}
    once, again = (repr(mutate_value(random.Random(7), value)) for _ in range(2))
    assert once == again != repr(value)
