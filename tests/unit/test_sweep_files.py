"""A sweep file is sound as a whole, or refused with the line and the key, before anything starts."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from raypose.cli.root import app
from raypose.config import RunConfig
from raypose.errors import ConfigError
from raypose.storage.local import LocalStore
from raypose.tune.checks import Sweep, load_sweep
from raypose.tune.found import open_sweep, write_sweep
from raypose.tune.records import Records, SweepState
from raypose.tune.run import begun_place
from raypose.tune.schema import Domain
from raypose.tune.space import at_share, changed, corner_draws, random_draw, share_of

PROJECT = Path(__file__).parents[2]

BASE = """
data: {train: train, val: val}
train: {epochs: 9, optimizer: AdamW, batch: 16}
scaling: {workers: 2}
"""
SOUND = {
    "name": "sweep",
    "base": "base.yaml",
    "space": "{train.lr0: {loguniform: [1e-4, 1e-2]}}",
    "budget": "{trials: 8}",
}


def sweep_file(folder: Path, **settings: str) -> Path:
    (folder / "base.yaml").write_text(BASE)
    path = folder / "sweep.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in {**SOUND, **settings}.items()))
    return path


def refused(folder: Path, **settings: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_sweep(sweep_file(folder, **settings))
    assert caught.value.exit_code == 2
    assert len(caught.value.problems) == 1, caught.value.problems
    return caught.value.problems[0].removeprefix(f"{folder}/")


BROKEN = {
    "unknown_setting": ({"sampler": "tpe"}, "sweep.yaml:5: sampler: unknown key"),
    "unknown_key_of_a_run": (
        {"space": "{train.lr: {uniform: [0.1, 0.2]}}"},
        "sweep.yaml:3: space: train.lr: unknown key; did you mean train.lrf?",
    ),
    "section_instead_of_a_key": (
        {"space": "{train: {choice: [1, 2]}}"},
        "sweep.yaml:3: space: train: must be a section with keys of its own",
    ),
    "empty_range": (
        {"space": "{train.lr0: {uniform: [0.2, 0.1]}}"},
        "sweep.yaml:3: space.train.lr0: the range from 0.2 to 0.1 is empty",
    ),
    "loguniform_from_zero": (
        {"space": "{train.lr0: {loguniform: [0.0, 0.1]}}"},
        "sweep.yaml:3: space.train.lr0: loguniform needs bounds above 0",
    ),
    "two_kinds": (
        {"space": "{train.lr0: {uniform: [0.1, 0.2], choice: [1, 2]}}"},
        "sweep.yaml:3: space.train.lr0: give one of uniform, loguniform, randint and choice, found uniform and choice",
    ),
    "one_choice": (
        {"space": "{train.optimizer: {choice: [SGD]}}"},
        "sweep.yaml:3: space.train.optimizer: a choice of 1 leaves nothing to search",
    ),
    "wrong_type": (
        {"space": "{train.batch: {uniform: [16, 32]}}"},
        "sweep.yaml:3: space: train.batch: must be a valid integer, found 16.0",
    ),
    "a_corner_out_of_range": (
        {"space": "{train.momentum: {uniform: [0.5, 1.0]}}"},
        "sweep.yaml:3: space: train.momentum: must be less than 1, found 1.0",
    ),
    "a_choice_that_is_none": (
        {"space": "{train.optimizer: {choice: [SGD, Lion]}}"},
        "sweep.yaml:3: space: train.optimizer: must be 'auto', 'SGD', 'MuSGD', 'Adam' or 'AdamW', found 'Lion'",
    ),
    "a_batch_that_cannot_be_divided": (
        {"space": "{train.batch: {choice: [16, 17]}}"},
        "sweep.yaml: space, with train.batch 17: train.batch 17 cannot be divided among 2 virtual workers",
    ),
    "a_pair_that_does_not_go_together": (
        {"space": "{train.batch: {choice: [16, 24]}, scaling.virtual_workers: {choice: [4, 16]}}"},
        "sweep.yaml: space, with train.batch 24, scaling.virtual_workers 16: train.batch 24 cannot be divided",
    ),
    "an_image_size_between_the_ends": (
        {"space": "{train.imgsz: {randint: [64, 128], step: 16}}"},
        "sweep.yaml:3: space: train.imgsz: 80 is no multiple of 32",
    ),
    "a_condition_on_an_unknown_key": (
        {"space": "{train.lr0: {uniform: [0.1, 0.2], when: {train.optimizer: SGD}}}"},
        "sweep.yaml: space.train.lr0: when: train.optimizer is not in the space",
    ),
    "a_condition_that_never_holds": (
        {
            "space": "{train.optimizer: {choice: [SGD, AdamW]},"
            " train.lr0: {uniform: [0.1, 0.2], when: {train.optimizer: Adam}}}"
        },
        "sweep.yaml: space.train.lr0: when: train.optimizer is never 'Adam'",
    ),
    "a_rate_that_auto_ignores": (
        {"overrides": "{train.optimizer: auto}"},
        "sweep.yaml:3: space.train.lr0: train.optimizer 'auto' chooses it and ignores this one",
    ),
    "an_option_of_another_scheduler": (
        {"scheduler": "{use: asha, quantile: 0.5}"},
        "sweep.yaml:5: scheduler: quantile is no setting of 'asha', which has min_epochs, reduction",
    ),
    "a_rung_beyond_the_end": (
        {"scheduler": "{use: asha, min_epochs: 9}"},
        "sweep.yaml:5: scheduler.min_epochs: runs of 9 epochs",
    ),
    "a_population_that_would_change_its_batch": (
        {"scheduler": "{use: pbt}", "space": "{train.batch: {choice: [16, 32]}}"},
        "sweep.yaml:3: space.train.batch: cannot change in the middle of a run",
    ),
    "generations_without_a_validation": (
        {"scheduler": "{use: pbt, every_epochs: 3}", "overrides": "{val.every_epochs: 2}"},
        "sweep.yaml:5: scheduler.every_epochs: validation comes every 2 epochs",
    ),
    "a_member_that_would_end_its_population": (
        {"scheduler": "{use: pbt}", "overrides": "{train.patience: 8}"},
        "sweep.yaml:5: scheduler.use: a member that train.patience 8 ends before epoch 9 would end all of pbt",
    ),
    "metrics_against_each_other_and_a_scheduler": (
        {"against": "{latency_ms: min}", "scheduler": "{use: asha}"},
        "sweep.yaml: against: asha would end trials by metric alone",
    ),
    "a_metric_against_itself": (
        {"against": "{pose_ap: max}"},
        "sweep.yaml: against: pose_ap is the metric already, that of base",
    ),
    "a_metric_that_is_neither_high_nor_low": (
        {"against": "{latency_ms: low}"},
        "sweep.yaml:5: against.latency_ms: must be 'max' or 'min', found 'low'",
    ),
    "bohb_without_rungs": (
        {"searcher": "{use: bohb}"},
        "sweep.yaml: searcher: bohb learns from rungs, and scheduler none has none; use hyperband",
    ),
    "a_warm_start_of_what_does_not_learn": (
        {"warm_start": "[runs/earlier]"},
        "sweep.yaml: warm_start: random search learns from nothing",
    ),
    "an_option_of_pbt_for_pb2": (
        {"scheduler": "{use: pb2, resample: 0.5}"},
        "sweep.yaml:5: scheduler: resample is no setting of 'pb2', which has every_epochs, quantile",
    ),
    "no_trials": ({"budget": "{trials: 0}"}, "sweep.yaml:4: budget.trials: must be greater than or equal to 1"),
    "an_override_of_the_wrong_type": (
        {"overrides": "{train.epochs: many}"},
        "sweep.yaml:5: overrides: train.epochs: must be a valid integer, found 'many'",
    ),
    "a_name_that_is_varied": (
        {"space": "{name: {choice: [one, two]}}"},
        "sweep.yaml:3: space.name: cannot be varied",
    ),
    "no_base": ({"base": "nowhere.yaml"}, "nowhere.yaml: cannot read the configuration"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_sweep_file_is_refused_with_its_line_and_key(name: str, tmp_path: Path) -> None:
    settings, expected = BROKEN[name]
    assert refused(tmp_path, **settings).startswith(expected)


def test_a_sound_file_varies_its_base(tmp_path: Path) -> None:
    sweep = load_sweep(sweep_file(tmp_path, overrides="{train.epochs: 4}"))
    run = sweep.run_of({"train.lr0": 0.003}, name="0000", storage="runs")
    assert isinstance(run, RunConfig)
    assert (run.train.lr0, run.train.epochs, run.name, sweep.metric) == (0.003, 4, "0000", "pose_ap")


@pytest.mark.parametrize("scheduler", ["{use: asha, reduction: 2}", "{use: pbt, factors: [0.5, 2.0]}", "{use: pb2}"])
def test_a_sweep_is_read_back_from_storage_as_it_was_written(scheduler: str, tmp_path: Path) -> None:
    space = "{train.lr0: {loguniform: [1e-5, 1e-2]}, train.pose: {choice: [6.0, 12.0]}}"
    sweep = load_sweep(sweep_file(tmp_path, scheduler=scheduler, space=space))
    store = LocalStore(tmp_path / "sweep")
    write_sweep(sweep, store)
    assert open_sweep(store.url)[0] == sweep


def test_places_to_choose_from_are_those_of_the_folder_that_the_sweep_began_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    space = (
        "{data.train: {choice: [./a, s3://poses/b]}, model.pretrained: {choice: [null, best.pt]},"
        " train.lr0: {uniform: [0.1, 0.2], when: {data.train: ./a}}}"
    )
    write_sweep(load_sweep(sweep_file(tmp_path, space=space)), LocalStore(tmp_path / "sweep"))
    monkeypatch.chdir("/")
    sweep = open_sweep(str(tmp_path / "sweep"))[0]
    assert sweep.config.space["data.train"].choice == (f"{tmp_path}/a", "s3://poses/b")
    assert sweep.config.space["model.pretrained"].choice == (None, f"{tmp_path}/best.pt")
    assert sweep.config.space["train.lr0"].when == {"data.train": f"{tmp_path}/a"}


@pytest.mark.parametrize("patience", [0, 9])
def test_a_population_takes_a_patience_that_ends_no_member(patience: int, tmp_path: Path) -> None:
    load_sweep(sweep_file(tmp_path, scheduler="{use: pbt}", overrides=f"{{train.patience: {patience}}}"))


def begun(folder: Path, **settings: str) -> str:
    """Where the sweep of a file with these settings has begun."""
    store = LocalStore(folder / "runs/sweep")
    write_sweep(load_sweep(sweep_file(folder, storage=str(folder / "runs"), **settings)), store)
    Records(store).write_state(SweepState())
    return store.url


def test_a_file_continues_its_sweep_however_it_says_the_same(tmp_path: Path) -> None:
    place = begun(tmp_path)
    same = {"storage": f"{tmp_path}/./runs", "overrides": "{train.epochs: 9}", "mode": "max"}
    assert begun_place(str(sweep_file(tmp_path, **same))) == place


@pytest.mark.parametrize(
    ("edited", "keys"),
    [
        ({"budget": "{trials: 9}"}, "budget.trials"),
        ({"space": "{train.lr0: {loguniform: [1e-5, 1e-2]}}"}, "space.train.lr0.loguniform"),
        ({"space": "{train.pose: {choice: [6.0, 12.0]}}"}, "space.train.lr0.loguniform, space.train.pose.choice"),
        ({"overrides": "{train.epochs: 8}", "seed": "1"}, "seed, train.epochs of base"),
    ],
)
def test_a_file_that_was_edited_does_not_continue_its_sweep(edited: dict[str, str], keys: str, tmp_path: Path) -> None:
    place = begun(tmp_path)
    file = sweep_file(tmp_path, **{"storage": str(tmp_path / "runs"), **edited})
    with pytest.raises(ConfigError) as caught:
        begun_place(str(file))
    assert str(caught.value) == (
        f"{file}: the sweep at {place} has begun with another {keys}; choose another name than 'sweep', or go on as it"
        f" was: raypose tune --resume {place}"
    )


def test_a_sweep_that_died_before_its_first_record_has_not_begun(tmp_path: Path) -> None:
    write_sweep(load_sweep(sweep_file(tmp_path)), LocalStore(tmp_path / "runs/sweep"))
    assert begun_place(str(sweep_file(tmp_path, storage=str(tmp_path / "runs")))) is None


def test_checking_starts_nothing_also_where_a_sweep_to_resume_is_given(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["tune", "--check", "--resume", str(tmp_path / "sweep")])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "tune: --check goes with a sweep file"


@pytest.mark.parametrize("path", sorted((PROJECT / "configs").glob("tune-*.yaml")), ids=lambda path: path.stem)
def test_every_example_sweep_is_sound(path: Path) -> None:
    assert isinstance(load_sweep(path), Sweep)


SPACE = {
    "train.optimizer": Domain(choice=("SGD", "AdamW")),
    "train.lr0": Domain(loguniform=(1e-5, 1e-1)),
    "train.momentum": Domain(uniform=(0.5, 0.95), when={"train.optimizer": "SGD"}),
    "augment.close_mosaic": Domain(randint=(0, 9), step=3),
}


def is_inside(draw: dict[str, object]) -> bool:
    momentum_fits = ("train.momentum" in draw) == (draw["train.optimizer"] == "SGD")
    return (
        momentum_fits
        and 1e-5 <= float(draw["train.lr0"]) <= 1e-1  # type: ignore[arg-type]
        and 0.5 <= float(draw.get("train.momentum", 0.5)) <= 0.95  # type: ignore[arg-type]
        and draw["augment.close_mosaic"] in (0, 3, 6, 9)
    )


@given(st.integers(0, 10**6))
def test_draws_and_what_they_are_changed_to_stay_inside_the_space_and_its_conditions(seed: int) -> None:
    random = Random(seed)
    draw = random_draw(SPACE, random)
    assert is_inside(draw)
    for _ in range(5):
        draw = changed(SPACE, draw, random, resample=0.3, factors=(0.5, 2.0))
        assert is_inside(draw)


@given(st.floats(0, 1), st.sampled_from(["train.lr0", "train.momentum", "augment.close_mosaic"]))
def test_a_share_of_a_range_is_the_share_of_the_value_there(share: float, key: str) -> None:
    domain = SPACE[key]
    value = at_share(domain, share)
    assert at_share(domain, share_of(domain, value)) == value
    assert abs(share_of(domain, value) - share) <= (1 / 6 + 1e-9 if domain.randint else 1e-5)


@given(st.integers(0, 10**6))
def test_the_same_seed_draws_the_same(seed: int) -> None:
    assert random_draw(SPACE, Random(seed)) == random_draw(SPACE, Random(seed))


def test_every_corner_of_every_key_is_among_those_that_are_checked() -> None:
    for most in (10, 1000):
        corners = corner_draws(SPACE, most)
        assert {draw["train.lr0"] for draw in corners} == {1e-5, 1e-1}
        assert {draw["train.momentum"] for draw in corners if "train.momentum" in draw} == {0.5, 0.95}
        assert {draw["augment.close_mosaic"] for draw in corners} == {0, 3, 6, 9}
        assert all(is_inside(draw) for draw in corners)
