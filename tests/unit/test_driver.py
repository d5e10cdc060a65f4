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

from raypose.config import RunConfig, dump_config, load_config
from raypose.errors import RunInterruptedError, TrainingError
from raypose.launch import driver
from raypose.launch.monitor import RunMonitor
from raypose.launch.nodes import NodeWatch
from raypose.telemetry import Event, Notice
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


@pytest.fixture
def ended_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run whose folder says that it is complete; to start Ray for it would fail."""
    monkeypatch.setattr(driver, "check_run", lambda config, store, resume: None)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    config = run_of(tmp_path).located(tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "one/config.yaml").write_text(dump_config(config))
    (tmp_path / "one/summary.json").write_text('{"status": "completed", "steps": 8}')
    return config


def test_a_complete_run_is_not_started_again(ended_run: RunConfig) -> None:
    told: list[Event] = []
    assert driver.train(ended_run, told.append, resume=True) == {"status": "completed", "steps": 8}
    (notice,) = told
    assert isinstance(notice, Notice)
    assert "nothing left to do" in notice.text


@pytest.mark.parametrize("summary", ['{"status": "stopped early"}', '{"status": "comp', None])
def test_a_run_that_is_not_complete_goes_on(ended_run: RunConfig, tmp_path: Path, summary: str | None) -> None:
    (tmp_path / "one/summary.json").unlink()
    if summary is not None:
        (tmp_path / "one/summary.json").write_text(summary)
    with pytest.raises(TrainingError, match="no Ray cluster answers"):
        driver.train(ended_run, lambda event: None, resume=True)


def test_a_complete_run_is_summed_up_anew_under_other_settings(ended_run: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no Ray cluster answers"):
        driver.train(run_of(tmp_path, "val.pictures=3"), lambda event: None, resume=True)
