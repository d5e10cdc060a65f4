"""Two processes that train one run: the newcomer finishes it, and the older changes nothing any more."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch

from raypose.checkpoint import CheckpointStore
from raypose.config import RunConfig
from raypose.engine.loop import run
from raypose.engine.setup import prepare
from raypose.engine.world import World
from raypose.errors import RunTakenOverError
from raypose.launch.claim import Claim, ClaimedStore
from raypose.storage import open_store
from raypose.telemetry import Event, StepsDone, fan_out
from raypose.telemetry.logbook import Logbook
from tests.data_sets import build_synthetic, tiny_run
from tests.faults.interrupted import train
from tests.forked import forking

TAKEN_OVER = 7


def train_by_claim(config: RunConfig, stop_after: int | None) -> None:
    """What the only worker of a launch does. After a step it may fall silent, as on a host that hangs."""
    torch.set_num_threads(1)
    store = open_store(config.storage).child(config.name)
    claimed = ClaimedStore(store, Claim.take(store).renewed())
    parts = prepare(config, World(), claimed, lambda event: None)

    def fall_silent(event: Event) -> None:
        if isinstance(event, StepsDone) and event.step == stop_after:
            os.kill(os.getpid(), signal.SIGSTOP)

    try:
        with Logbook(claimed, start_step=parts.progress.step, tensorboard=False) as logbook:
            run(parts, fan_out(logbook, fall_silent))
    except RunTakenOverError:
        os._exit(TAKEN_OVER)


def start(config: RunConfig, *, stop_after: int | None = None) -> ForkServerProcess:
    process = forking().Process(target=train_by_claim, args=(config, stop_after))
    process.start()
    return process


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def files_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.timeout(300)
def test_a_process_that_comes_back_after_a_takeover_changes_nothing(tmp_path: Path) -> None:
    data = build_synthetic(tmp_path / "data")
    settings = ["checkpoint.every_steps=2", "checkpoint.background=false", "scaling.virtual_workers=2"]
    _, expected = train(tiny_run(data, tmp_path / "undisturbed", *settings))
    config = tiny_run(data, tmp_path / "runs", *settings)
    older = start(config, stop_after=4)
    assert older.pid is not None
    try:
        while not is_stopped(older.pid):
            assert older.is_alive()
            time.sleep(0.01)
        newcomer = start(config)
        newcomer.join()
        assert newcomer.exitcode == 0
        finished = files_of(tmp_path / "runs/tiny")
    finally:
        os.kill(older.pid, signal.SIGCONT)
        older.join()
    assert older.exitcode == TAKEN_OVER
    assert files_of(tmp_path / "runs/tiny") == finished
    found = CheckpointStore(open_store(str(tmp_path / "runs/tiny"))).load_latest(pytest.fail)
    assert found is not None
    assert found.progress.step == expected.progress.step == 12
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())
