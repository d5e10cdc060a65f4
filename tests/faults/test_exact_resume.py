"""A run that is interrupted at any step and continued equals the one that never was, to the last bit."""

from __future__ import annotations

import csv
import functools
import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raypose.checkpoint import Snapshot
from raypose.config import RunConfig
from raypose.engine.loop import run
from raypose.engine.setup import prepare
from raypose.engine.world import World
from raypose.errors import CheckpointError, RunInterruptedError
from raypose.model import multiplies_bfloat16
from raypose.storage import open_store
from raypose.telemetry import Event, Notice, RunStarted, StepsDone
from raypose.telemetry.logbook import Logbook
from tests.data_sets import newest_checkpoint, tiny_run
from tests.faults.interrupted import train
from tests.faults.killed_run import AfterSteps, AtWrite, InValidation, Kill, train_in_process, train_through


def run_of(data: Path, storage: Path, *overrides: str) -> RunConfig:
    always = [
        "scaling.virtual_workers=2",
        "telemetry.log_every_steps=1",
        "checkpoint.keep_last=9",
        "val.every_epochs=1",
    ]
    return tiny_run(data, storage, *always, *overrides)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[list[Event], Snapshot]]:
    """The undisturbed run of a recipe, trained once."""

    @functools.cache
    def of(*settings: str) -> tuple[list[Event], Snapshot]:
        return train(run_of(data, tmp_path_factory.mktemp("whole"), *settings))

    return of


RECIPES = {
    "adamw, every third step": ["checkpoint.every_steps=3"],
    "sgd that adds up three batches": ["train.optimizer=SGD", "train.nbs=24", "checkpoint.every_steps=2"],
    "yolo26 at several scales": [
        "model.architecture=yolo26n-pose", "train.multi_scale=0.5", "checkpoint.every_steps=3",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=[pytest.mark.slow] if "yolo26" in name else []) for name in RECIPES]
)
def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(
    recipe: str, whole: Callable[..., tuple[list[Event], Snapshot]], data: Path, tmp_path: Path
) -> None:
    undisturbed, expected = whole(*RECIPES[recipe])
    parted = run_of(data, tmp_path / "parted", *RECIPES[recipe])
    train(parted, cut_after=5)
    train(parted, cut_after=10)
    resumed, found = train(parted)
    assert found.progress.step == expected.progress.step == 12
    assert set(found.tensors) == set(expected.tensors)
    different = [name for name, tensor in expected.tensors.items() if not torch.equal(found.tensors[name], tensor)]
    assert different == []
    assert found.metrics == pytest.approx(expected.metrics, rel=0, abs=0, nan_ok=True)
    losses = {event.step: event.losses for event in undisturbed if isinstance(event, StepsDone)}
    assert [event.losses for event in resumed if isinstance(event, StepsDone)] == [
        losses[step] for step in range(13 - sum(isinstance(event, StepsDone) for event in resumed), 13)
    ]


def test_a_damaged_last_checkpoint_costs_a_few_steps_and_nothing_else(
    whole: Callable[..., tuple[list[Event], Snapshot]], data: Path, tmp_path: Path
) -> None:
    _, expected = whole("checkpoint.every_steps=3")
    parted = run_of(data, tmp_path / "parted", "checkpoint.every_steps=3")
    train(parted, cut_after=10)
    newest = sorted((tmp_path / "parted/tiny/checkpoints").iterdir())[-1]
    content = bytearray((newest / "state.safetensors").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (newest / "state.safetensors").write_bytes(content)
    events, found = train(parted)
    assert any(isinstance(event, Notice) and newest.name in event.text for event in events)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())


def test_a_damaged_checkpoint_takes_no_place_of_those_that_come_after_it(data: Path, tmp_path: Path) -> None:
    config = run_of(data, tmp_path, "checkpoint.every_steps=2", "checkpoint.keep_last=1")
    train(config, cut_after=11)
    checkpoints = tmp_path / "tiny/checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000006", "step-00000010"]  # best and last
    (checkpoints / "step-00000010/state.safetensors").write_bytes(b"")
    train(config, cut_after=9)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000006", "step-00000008"]


def test_the_log_of_a_resumed_run_reads_like_that_of_one_that_never_stopped(
    whole: Callable[..., tuple[list[Event], Snapshot]], data: Path, tmp_path: Path
) -> None:
    settings = ["checkpoint.every_steps=3", "telemetry.log_every_steps=4"]
    undisturbed, _ = whole(*settings)
    train(run_of(data, tmp_path, *settings), cut_after=8)
    resumed, _ = train(run_of(data, tmp_path, *settings))
    lines = [(event.step, event.losses) for event in resumed if isinstance(event, StepsDone)]
    assert [step for step, _ in lines] == [8, 9, 12]
    assert lines == [(one.step, one.losses) for one in undisturbed if isinstance(one, StepsDone) and one.step > 6]


def test_results_of_epochs_that_were_cut_are_those_of_the_whole_epochs(
    whole: Callable[..., tuple[list[Event], Snapshot]], data: Path, tmp_path: Path
) -> None:
    settings = ["checkpoint.every_steps=2"]
    undisturbed, _ = whole(*settings)
    expected = results(tmp_path / "expected", undisturbed)
    for cut_after in (5, 9, None):
        part, _ = train(run_of(data, tmp_path, *settings), cut_after=cut_after)
        found = results(tmp_path / "found", part)
    assert [row["epoch"] for row in expected] == ["1", "2"]
    assert found == expected


def results(folder: Path, events: list[Event]) -> list[dict[str, str]]:
    """The rows of `results.csv` after these events of a run whose files are in `folder`, without their times."""
    store = open_store(str(folder))
    (started,) = [event for event in events if isinstance(event, RunStarted)]
    with Logbook(store, start_step=started.start_step, tensorboard=False) as logbook:
        for event in events:
            logbook(event)
    if not store.exists("results.csv"):
        return []
    rows = csv.DictReader(io.StringIO(store.read("results.csv").decode()))
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


def test_a_run_that_has_come_as_far_as_it_should_does_not_go_on(data: Path, tmp_path: Path) -> None:
    """It was lost while it ended, and is started again."""
    config = run_of(data, tmp_path)
    store = open_store(config.storage).child(config.name)
    for _ in range(2):
        with pytest.raises(RunInterruptedError, match="stopped after step 6 of 12, state saved"):
            run(prepare(config, World(), store, lambda event: None), lambda event: None, until_epoch=1)


def test_a_checkpoint_is_not_continued_under_another_recipe(data: Path, tmp_path: Path) -> None:
    config = run_of(data, tmp_path, "checkpoint.every_steps=3")
    train(config, cut_after=5)
    other = run_of(data, tmp_path, "checkpoint.every_steps=3", "train.lr0=0.5")
    with pytest.raises(CheckpointError, match="another recipe"):
        train(other)


def test_a_run_that_goes_on_in_another_precision_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` is what the machines can do, and those that continue a run may be others."""
    config = run_of(data, tmp_path, "checkpoint.every_steps=3")

    def train_where(native_bfloat16: bool, cut_after: int | None = None) -> str:
        monkeypatch.setattr("raypose.engine.precision.multiplies_bfloat16", lambda device_type: native_bfloat16)
        events, _ = train(config, cut_after=cut_after)
        return " ".join(event.text for event in events if isinstance(event, Notice))

    assert "computed in" not in train_where(True, cut_after=4) + train_where(True, cut_after=8)
    assert "computed in bfloat16 up to step 6 and goes on in float32" in train_where(False)


def random_kills(seed: int) -> list[Kill]:
    """At all kinds of moments: between steps, in steps, in validations, and while a checkpoint is being written."""
    rng = random.Random(seed)
    anywhere = [AfterSteps(rng.randint(1, 3), rng.uniform(0.0, 0.3)) for _ in range(9)]
    in_validation = [InValidation(rng.uniform(0.0, 0.05)) for _ in range(3)]
    while_saving = [AtWrite(rng.randint(1, 12)) for _ in range(3)]
    return [
        kill
        for kinds in zip(anywhere[0::3], in_validation, anywhere[1::3], while_saving, anywhere[2::3], strict=True)
        for kill in kinds
    ]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("precision", "epochs", "kills"),
    [
        ("float32", 3, random_kills(1)[:5]),
        ("bfloat16", 3, random_kills(2)[:5]),
        pytest.param("float32", 5, random_kills(3), marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_at_any_moment_ends_with_the_bits_of_an_undisturbed_one(
    precision: str, epochs: int, kills: list[Kill], data: Path, tmp_path: Path
) -> None:
    if precision == "bfloat16" and not multiplies_bfloat16("cpu"):
        pytest.skip("this CPU has no bfloat16 arithmetic (avx512_bf16 or amx)")
    settings = ["checkpoint.every_steps=1", f"train.epochs={epochs}", f"train.precision={precision}"]
    whole, parted = (run_of(data, tmp_path / name, *settings) for name in ("whole", "parted"))
    assert train_in_process(whole, None)
    assert train_through(parted, kills) >= len(kills) - 2  # the run may end before the last ones
    assert train_in_process(parted, None)
    assert_same_bits(newest_checkpoint(parted), newest_checkpoint(whole))


def assert_same_bits(found: Snapshot, expected: Snapshot) -> None:
    """Weights, average, optimizer, step, counts and metrics; only clocks may differ."""
    assert set(found.tensors) == set(expected.tensors)
    assert [name for name, tensor in expected.tensors.items() if not torch.equal(found.tensors[name], tensor)] == []
    assert without_clocks(found) == without_clocks(expected)
    assert found.metrics == pytest.approx(expected.metrics, rel=0, abs=0, nan_ok=True)


def without_clocks(snapshot: Snapshot) -> dict[str, object]:
    return {name: value for name, value in snapshot.progress.to_dict().items() if not name.endswith("_seconds")}
