"""The driver of a run, without Ray: what it begins, what it asks for, and how it stops."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raypose.config import RunConfig, load_config
from raypose.errors import RunInterruptedError, TrainingError
from raypose.launch import driver
from raypose.launch.monitor import RunMonitor
from raypose.launch.nodes import NodeWatch
from tests.ports import free_port


def run_of(tmp_path: Path, *overrides: str) -> RunConfig:
    return load_config(None, ["data.train=a", "data.val=b", f"storage={tmp_path}", "name=one", *overrides])


class _Here:
    """An actor in this process, whose calls are answered at once."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._actor, name)
        return type("Method", (), {"remote": staticmethod(method)})


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> RunMonitor:
    """The monitor of a run that no worker has begun."""
    import ray

    monkeypatch.setattr(ray, "get", lambda answer: answer)
    monkeypatch.setattr(NodeWatch, "look", lambda self: None)
    return RunMonitor("runs/a b", "scaling.workers wants 1 of 1 CPU each")


def waits_for_room() -> None:
    threading.Event().wait()


def watch(monitor: RunMonitor, should_stop: Callable[[], bool] = lambda: False) -> BaseException | None:
    return driver._watch(waits_for_room, _Here(monitor), lambda event: None, should_stop)


def test_the_first_ctrl_c_ends_a_run_that_waits_for_room(monitor: RunMonitor) -> None:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    started_s = time.monotonic()
    assert watch(monitor) is None
    assert time.monotonic() - started_s < 20
    outcome = monitor.outcome()
    assert isinstance(outcome, RunInterruptedError)
    assert "raypose train --resume 'runs/a b'" in str(outcome)
    assert monitor.begin() is outcome, "workers that start all the same have nothing to do"


def test_a_sweep_need_not_wait_for_room_to_stop_a_trial(monitor: RunMonitor) -> None:
    assert watch(monitor, should_stop=lambda: True) is None
    assert isinstance(monitor.outcome(), RunInterruptedError)


def test_where_no_cluster_answers_the_name_of_the_run_stays_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "check_run", lambda config, store, resume: None)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(TrainingError, match="no Ray cluster answers"):
        driver.train(run_of(tmp_path), lambda event: None)
    assert not (tmp_path / "one/config.yaml").exists()


def test_a_ray_of_this_machine_has_the_cpus_that_workers_reserve(tmp_path: Path) -> None:
    cores = os.cpu_count() or 1
    assert driver._local_cpus(run_of(tmp_path, f"scaling.cpus_per_worker={cores + 0.5}")) == cores + 1
    assert driver._local_cpus(run_of(tmp_path)) == cores
