"""Checkpoints written in the background: in order, one at a time, told of once durable, and never lost in silence."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from raypose.checkpoint import CheckpointStore
from raypose.config import RunConfig
from raypose.engine.loop import run
from raypose.engine.setup import prepare
from raypose.engine.world import World
from raypose.errors import StorageError
from raypose.storage.local import LocalStore
from raypose.telemetry import CheckpointSaved, Event
from tests.data_sets import build_synthetic, tiny_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_synthetic(tmp_path_factory.mktemp("data"), train=32, val=4)


class SlowStore(LocalStore):
    """Uploads take a while, and may fail; who uploads is written down."""

    def __init__(self, root: Path, uploaded: list[tuple[str, str]], fails_at: str = "") -> None:
        super().__init__(root)
        self.uploaded = uploaded
        self._fails_at = fails_at

    def child(self, prefix: str) -> SlowStore:
        return SlowStore(self.root / prefix, self.uploaded, self._fails_at)

    def upload(self, path: Path, key: str) -> None:
        self.uploaded.append((threading.current_thread().name, key))
        time.sleep(0.1)
        if self._fails_at and key.startswith(self._fails_at):
            raise StorageError(f"{self.place(key)}: cannot write: No space left on device")
        super().upload(path, key)


class ThreadsInUse(LocalStore):
    """Notes how many threads whoever uploads a checkpoint computes with."""

    def __init__(self, root: Path, seen: set[int]) -> None:
        super().__init__(root)
        self.seen = seen

    def child(self, prefix: str) -> ThreadsInUse:
        return ThreadsInUse(self.root / prefix, self.seen)

    def upload(self, path: Path, key: str) -> None:
        self.seen.add(torch.get_num_threads())
        super().upload(path, key)


def train(config: RunConfig, store: LocalStore, threads: int = 1) -> list[Event]:
    torch.set_num_threads(threads)
    events: list[Event] = []

    def report(event: Event) -> None:
        if isinstance(event, CheckpointSaved):
            assert Path(event.place, "state.json").exists()
        events.append(event)

    run(prepare(config, World(), store, report), report)
    return events


def short_run(data: Path, storage: Path, *overrides: str) -> RunConfig:
    """Four steps of one epoch."""
    short = ["train.epochs=1", "augment.close_mosaic=0"]
    return tiny_run(data, storage, "checkpoint.keep_last=9", *short, *overrides)


def saved_events(events: list[Event]) -> list[CheckpointSaved]:
    return [event for event in events if isinstance(event, CheckpointSaved)]


def test_checkpoints_are_written_by_one_thread_in_order_and_reported_once_durable(data: Path, tmp_path: Path) -> None:
    store = SlowStore(tmp_path / "tiny", uploaded=[])
    saved = saved_events(train(short_run(data, tmp_path, "checkpoint.every_steps=1"), store))
    assert [event.step for event in saved] == [1, 2, 3, 4]
    of_thread = [(name, key) for name, key in store.uploaded if "step-" in key]
    assert {name.rpartition("_")[0] for name, _ in of_thread} == {"raypose-checkpoint"}
    assert [key.partition("/")[0] for _, key in of_thread] == sorted(key.partition("/")[0] for _, key in of_thread)
    assert all(event.blocked_seconds <= event.seconds for event in saved)


def test_the_thread_that_writes_takes_no_core_from_the_one_that_trains(data: Path, tmp_path: Path) -> None:
    store = ThreadsInUse(tmp_path / "tiny", seen=set())
    try:
        train(short_run(data, tmp_path, "checkpoint.every_steps=2"), store, threads=2)
        assert store.seen == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_checkpoints_that_training_waits_for_have_the_same_bits(data: Path, tmp_path: Path) -> None:
    contents = []
    for name, background in (("ahead", "true"), ("waiting", "false")):
        store = LocalStore(tmp_path / name)
        settings = ("checkpoint.every_steps=2", f"checkpoint.background={background}")
        events = train(short_run(data, tmp_path, *settings), store)
        assert [event.step for event in saved_events(events)] == [2, 4]
        contents.append(CheckpointStore(store).load("step-00000004").tensors)
    assert all(torch.equal(contents[1][name], tensor) for name, tensor in contents[0].items())


def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_its_error(data: Path, tmp_path: Path) -> None:
    store = SlowStore(tmp_path / "tiny", uploaded=[], fails_at="step-00000002/")
    with pytest.raises(StorageError, match=r"step-00000002.*No space left"):
        train(short_run(data, tmp_path, "checkpoint.every_steps=1"), store)
    assert [saved.step for saved in CheckpointStore(store).saved()] == [1]


def test_a_checkpoint_is_due_by_the_clock_at_the_next_line_of_the_log(data: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "tiny")
    settings = ("checkpoint.every_minutes=1e-6", "telemetry.log_every_steps=2", "checkpoint.every_epochs=9")
    events = train(short_run(data, tmp_path, *settings), store)
    assert [event.step for event in saved_events(events)] == [2, 4]
