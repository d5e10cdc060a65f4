"""`raypose runs tail` and `raypose train --json`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from raypose.cli import main
from raypose.engine.run_tail import tail
from raypose.errors import CheckpointError, StorageUnavailableError
from raypose.storage import open_store
from raypose.storage.local import LocalStore
from raypose.telemetry import CheckpointSaved, Notice, RunStopped, StepsDone
from raypose.telemetry.json_lines import JsonLines
from raypose.telemetry.logbook import Logbook


def row(step: int, kind: str = "train") -> dict[str, object]:
    return {"kind": kind, "step": step, "epoch": step / 4, f"{kind}/box_loss": 1.5, "images_per_second": 50.0}


@pytest.fixture
def run(tmp_path: Path) -> str:
    store = open_store(str(tmp_path / "run"))
    store.write("config.yaml", b"name: run\n")
    write(str(tmp_path / "run"), [row(2), row(4), row(4, "val")])
    return str(tmp_path / "run")


def write(run: str, rows: list[dict[str, object]]) -> None:
    open_store(run).write("metrics.jsonl", "".join(json.dumps(one) + "\n" for one in rows).encode())


def test_the_last_rows_are_told_in_order(run: str) -> None:
    assert [(one["kind"], one["step"]) for one in tail(run, last=2)] == [("train", 4), ("val", 4)]
    assert list(tail(run, last=0)) == []


def test_following_tells_each_new_row_once_and_ends_with_the_run(run: str) -> None:
    looks = iter(
        [
            lambda: write(run, [row(2), row(4), row(4, "val"), row(6)]),
            lambda: write(run, [row(2), row(4), row(4, "val")]),  # a restart has cut the log back
            lambda: write(run, [row(2), row(4), row(4, "val"), row(6), row(8)]),
            lambda: open_store(run).write("summary.json", b"{}"),
        ]
    )
    rows = tail(run, last=1, wait=lambda: next(looks)())  # noqa: PLW0108 (each time another one)
    assert [(one["kind"], one["step"]) for one in rows] == [("val", 4), ("train", 6), ("train", 8)]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run there"):
        list(tail(str(tmp_path), last=3))


def test_the_command_prints_words_or_json(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["runs", "tail", run, "-n", "2"])
    assert capsys.readouterr().out.splitlines()[0] == "train  step 4  epoch 1.00  50.0 images/s  box 1.500"
    with pytest.raises(SystemExit):
        main(["runs", "tail", run, "-n", "1", "--json"])
    assert json.loads(capsys.readouterr().out)["kind"] == "val"


STEPS = StepsDone(
    step=8, epoch=0.5, losses={"box_loss": float("nan")}, learning_rates=(0.1,), gradient_norm=None,
    images_per_second=50.0, memory_bytes=1, samples=64, images_read=64, step_seconds=(0.1,),
    data_wait_seconds=0.0, sync_seconds=0.0,
)  # fmt: skip


class Hanging(LocalStore):
    """A store whose server has stopped answering: whoever asks waits for its deadline."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.waits = 0

    def write(self, key: str, content: bytes) -> None:
        self.waits += 1
        raise StorageUnavailableError(f"{key}: tried for 120 s")

    def upload(self, path: Path, key: str) -> None:
        self.write(key, b"")

    def child(self, prefix: str) -> Hanging:
        return self


def test_a_store_that_a_run_has_waited_for_in_vain_is_not_waited_for_again(tmp_path: Path) -> None:
    store = Hanging(tmp_path)
    with pytest.raises(StorageUnavailableError), Logbook(store, start_step=0, tensorboard=True) as logbook:
        logbook(STEPS)
        store.write("checkpoints/step-00000008/state.json", b"{}")
    assert store.waits == 1


def test_every_event_is_one_line_of_json_with_run_host_rank_and_step() -> None:
    stream = io.StringIO()
    report = JsonLines(stream, "pose", clock=lambda: 12.5)
    report(STEPS)
    report(Notice("the cache is small"))
    report(CheckpointSaved(step=9, place="s3://poses/runs/pose/checkpoints/step-00000009", seconds=1.0, is_best=True))
    report(RunStopped("the store is away", interrupted=False))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["level"], line["step"]) for line in lines] == [
        ("StepsDone", "info", 8), ("Notice", "warning", 8), ("CheckpointSaved", "info", 9), ("RunStopped", "error", 9),
    ]  # fmt: skip
    assert all({"time", "run", "host", "rank"} <= set(line) for line in lines)
    assert lines[0]["losses"] == {"box_loss": None}, "JSON has no NaN"
