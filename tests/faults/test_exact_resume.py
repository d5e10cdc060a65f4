"""A run that is interrupted at any step and continued equals the one that never was, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.data_sets import build_synthetic, tiny_run

from raypose.checkpoint import CheckpointStore, Snapshot
from raypose.config import RunConfig
from raypose.engine.loop import run
from raypose.engine.setup import prepare
from raypose.engine.world import World
from raypose.errors import CheckpointError
from raypose.storage import open_store
from raypose.telemetry import Event, Notice, StepsDone


class Power(Exception):  # noqa: N818
    """Stands for the power cut: nothing of the run survives it but what is in storage."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_synthetic(tmp_path_factory.mktemp("data"))


def train(config: RunConfig, *, cut_after: int | None = None) -> tuple[list[Event], Snapshot]:
    """Run or continue; returns what was reported and the newest checkpoint."""
    store = open_store(config.storage).child(config.name)
    events: list[Event] = []

    def report(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepsDone) and event.step == cut_after:
            raise Power

    torch.set_num_threads(1)
    parts = prepare(config, World(), store, report)
    if cut_after is None:
        run(parts, report)
    else:
        with pytest.raises(Power):
            run(parts, report)
    latest = CheckpointStore(store).load_latest(pytest.fail)
    assert latest is not None
    return events, latest


def run_of(data: Path, storage: Path, *overrides: str) -> RunConfig:
    always = [
        "scaling.virtual_workers=2",
        "telemetry.log_every_steps=1",
        "checkpoint.keep_last=9",
        "val.every_epochs=1",
    ]
    return tiny_run(data, storage, *always, *overrides)


RECIPES = {
    "adamw, every third step": ["checkpoint.every_steps=3"],
    "sgd that adds up three batches": ["train.optimizer=SGD", "train.nbs=24", "checkpoint.every_steps=2"],
    "yolo26 at several scales": [
        "model.architecture=yolo26n-pose", "train.multi_scale=0.5", "checkpoint.every_steps=3",
    ],
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(recipe: str, data: Path, tmp_path: Path) -> None:
    whole, expected = train(run_of(data, tmp_path / "whole", *RECIPES[recipe]))
    parted = run_of(data, tmp_path / "parted", *RECIPES[recipe])
    train(parted, cut_after=5)
    train(parted, cut_after=10)
    resumed, found = train(parted)
    assert found.progress.step == expected.progress.step == 12
    assert set(found.tensors) == set(expected.tensors)
    different = [name for name, tensor in expected.tensors.items() if not torch.equal(found.tensors[name], tensor)]
    assert different == []
    assert found.metrics == pytest.approx(expected.metrics, rel=0, abs=0, nan_ok=True)
    losses = {event.step: event.losses for event in whole if isinstance(event, StepsDone)}
    assert [event.losses for event in resumed if isinstance(event, StepsDone)] == [
        losses[step] for step in range(13 - sum(isinstance(event, StepsDone) for event in resumed), 13)
    ]


def test_a_damaged_last_checkpoint_costs_a_few_steps_and_nothing_else(data: Path, tmp_path: Path) -> None:
    _, expected = train(run_of(data, tmp_path / "whole", "checkpoint.every_steps=3"))
    parted = run_of(data, tmp_path / "parted", "checkpoint.every_steps=3")
    train(parted, cut_after=10)
    newest = sorted((tmp_path / "parted/tiny/checkpoints").iterdir())[-1]
    content = bytearray((newest / "state.safetensors").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (newest / "state.safetensors").write_bytes(content)
    events, found = train(parted)
    assert any(isinstance(event, Notice) and newest.name in event.text for event in events)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())


def test_a_checkpoint_is_not_continued_under_another_recipe(data: Path, tmp_path: Path) -> None:
    config = run_of(data, tmp_path, "checkpoint.every_steps=3")
    train(config, cut_after=5)
    other = run_of(data, tmp_path, "checkpoint.every_steps=3", "train.lr0=0.5")
    with pytest.raises(CheckpointError, match="another recipe"):
        train(other)
