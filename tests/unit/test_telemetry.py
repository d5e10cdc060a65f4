"""What a run says, and the files and lines that come of it."""

from __future__ import annotations

import csv
import io
import math
import struct
from pathlib import Path

import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event as TensorBoardEvent
from tensorboardX.proto.event_pb2 import SessionLog

from raypose.storage import open_store
from raypose.telemetry import (
    CheckpointSaved,
    EpochValidated,
    Event,
    Notice,
    RunStarted,
    StepsDone,
    WorkersStarting,
    fan_out,
)
from raypose.telemetry.logbook import Logbook, read_rows
from raypose.telemetry.progress import TerminalProgress

STARTED = RunStarted(
    name="demo", folder="runs/demo", architecture="yolo11n-pose", parameters=2_900_000, workers=2, virtual_workers=2,
    device="cpu", precision="float32", optimizer="AdamW lr0 0.002", train_images=64, val_images=16, epochs=2,
    start_step=0, total_steps=8,
)  # fmt: skip


def steps(step: int) -> StepsDone:
    return StepsDone(
        step, step / 4, {"box_loss": 1.5, "pose_loss": 2.5}, (0.1, 0.2, 0.3), 9.0, 50.0, 10**9,
        samples=32, images_read=128, step_seconds=(0.4, 0.6), data_wait_seconds=0.1, sync_seconds=0.2,
    )  # fmt: skip


def epoch(number: int, step: int, ap: float = 0.25) -> EpochValidated:
    metrics = {"pose_ap": ap, "pose_ap50": 0.5, "precision": 0.75, "recall": 0.6}
    return EpochValidated(number, step, {"box_loss": 1.0, "pose_loss": 2.0}, metrics, (0.1, 0.2, 0.3), 10.0, 2.0, True)


def test_results_csv_has_the_columns_that_ultralytics_users_know(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with Logbook(store, start_step=0, tensorboard=False) as book:
        for event in (steps(2), epoch(1, 4), steps(6), epoch(2, 8, math.nan)):
            book(event)
    rows = list(csv.DictReader(io.StringIO(store.read("results.csv").decode())))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["time"] for row in rows] == ["12", "24"]
    assert rows[0]["train/box_loss"] == "1"
    assert rows[0]["metrics/mAP50-95(P)"] == "0.25"
    assert rows[0]["metrics/precision(P)"] == "0.75"
    assert rows[0]["lr/pg2"] == "0.3"


def test_a_resumed_logbook_forgets_what_will_be_done_again(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with Logbook(store, start_step=0, tensorboard=False) as book:
        for event in (steps(2), epoch(1, 4), steps(6), epoch(2, 8)):
            book(event)
    with Logbook(store, start_step=4, tensorboard=False) as resumed:
        for event in (steps(6), epoch(2, 8)):
            resumed(event)
    assert [(row["kind"], row["step"]) for row in read_rows(store)] == [
        ("train", 2), ("val", 4), ("train", 6), ("val", 8),
    ]  # fmt: skip


def test_what_led_to_a_checkpoint_is_kept_though_the_run_ends_without_a_word(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    killed = Logbook(store, start_step=0, tensorboard=False)
    for event in (steps(2), steps(4), CheckpointSaved(4, "step-00000004", 0.1, is_best=False), steps(6)):
        killed(event)
    killed._wait()
    with Logbook(store, start_step=4, tensorboard=False) as resumed:
        resumed(steps(6))
    assert [row["step"] for row in read_rows(store)] == [2, 4, 6]


def test_tensorboard_files_hold_the_curves(tmp_path: Path) -> None:
    with Logbook(open_store(str(tmp_path)), start_step=0, tensorboard=True) as book:
        book(steps(2))
        book(epoch(1, 4))
    content = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"train/box_loss" in content
    assert b"val/pose_ap" in content


def test_tensorboard_keeps_the_step_that_a_run_resumes_from_and_forgets_those_after_it(tmp_path: Path) -> None:
    for start_step in (0, 4):
        with Logbook(open_store(str(tmp_path)), start_step=start_step, tensorboard=True):
            pass
        files = sorted((tmp_path / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        assert first_forgotten_step(files[-1]) == start_step + 1


def first_forgotten_step(path: Path) -> int:
    """TensorBoard hides what earlier files say of this step and of later ones."""
    content, place = path.read_bytes(), 0
    while place < len(content):
        (size,) = struct.unpack_from("<Q", content, place)
        event = TensorBoardEvent.FromString(content[place + 12 : place + 12 + size])
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            return event.step
        place += size + 16
    raise AssertionError("nothing is forgotten")


def test_without_a_terminal_a_run_is_plain_lines_with_the_figures() -> None:
    text = io.StringIO()
    starting = WorkersStarting("1 to 8", "head:6379")
    events: list[Event] = [starting, STARTED, steps(2), epoch(1, 4), Notice("checkpoint [damaged]")]
    with TerminalProgress(Console(file=text, width=200)) as progress:
        for event in events:
            progress(event)
    lines = text.getvalue().splitlines()
    assert lines[0] == "starting 1 to 8 workers on the cluster at head:6379 …"
    assert any("yolo11n-pose" in line and "2.90 M" in line for line in lines)
    assert any(line.startswith("epoch 0.50  step 2/8  50.0 images/s") for line in lines)
    assert any("compute 70%  data 10%  sync 20%  checkpoints 0%" in line for line in lines)
    assert any("  left 0:00:0" in line for line in lines)
    assert any("pose_ap 0.250" in line for line in lines)
    assert "note: checkpoint [damaged]" in lines
    assert "\x1b" not in text.getvalue()


def test_every_reporter_of_a_fan_out_hears_everything_in_order() -> None:
    first: list[Event] = []
    second: list[Event] = []
    report = fan_out(first.append, second.append)
    for event in (STARTED, steps(1)):
        report(event)
    assert first == second == [STARTED, steps(1)]


@pytest.mark.parametrize("event", [STARTED, steps(1), epoch(1, 4), Notice("x")])
def test_events_survive_the_way_between_processes(event: Event) -> None:
    import pickle

    assert pickle.loads(pickle.dumps(event)) == event
