"""What the line between workers and driver says by itself."""

from __future__ import annotations

import pytest

from raypose.errors import RunInterruptedError, TrainingError
from raypose.launch import monitor as monitors
from raypose.launch.heartbeat import Beat
from raypose.launch.monitor import RunMonitor
from raypose.telemetry import Notice, WorkersFailed


def notices(monitor: RunMonitor) -> list[str]:
    return [event.text for event in monitor.drain() if isinstance(event, Notice)]


def test_a_run_that_no_node_has_room_for_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = RunMonitor("runs/a", "2 workers of 4 CPU")
    assert notices(monitor) == []
    monkeypatch.setattr(monitors, "SLOW_START_S", -1.0)
    assert ["2 workers of 4 CPU" in text for text in notices(monitor)] == [True]
    assert notices(monitor) == [], "once is enough"
    monitor.begin()
    monitor.push(WorkersFailed("node_lost", "worker 1"))
    assert len(notices(monitor)) == 1, "and once more when it has lost what it had"


def test_workers_that_have_begun_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitors, "SLOW_START_S", -1.0)
    monitor = RunMonitor("runs/a", "1 worker")
    monitor.begin()
    assert notices(monitor) == []


def test_workers_that_are_there_save_before_a_run_stops() -> None:
    monitor = RunMonitor("runs/a", "1 worker")
    monitor.begin()
    monitor.request_stop()
    assert (monitor.stop_requested(), monitor.is_given_up(), monitor.outcome()) == (True, False, None)


def test_a_run_that_has_lost_its_workers_while_it_stops_does_not_wait_for_others() -> None:
    monitor = RunMonitor("runs/a", "1 worker")
    monitor.begin()
    monitor.request_stop()
    monitor.push(WorkersFailed("node_lost", "worker 0"))
    assert monitor.is_given_up()
    assert isinstance(monitor.outcome(), RunInterruptedError)


def test_a_run_that_goes_on_elsewhere_can_be_stopped_while_it_waits_for_room_there() -> None:
    monitor = RunMonitor("runs/a", "1 worker")
    monitor.begin()
    monitor.move()
    assert not monitor.is_given_up()
    monitor.request_stop()
    assert monitor.is_given_up()


def test_the_error_that_ended_a_run_stays_the_reason_when_it_is_stopped_after() -> None:
    monitor = RunMonitor("runs/a", "1 worker")
    monitor.begin()
    monitor.end(TrainingError("step 7: the loss is not finite"))
    monitor.push(WorkersFailed("error", "worker 0"))
    assert not monitor.is_given_up(), "Ray ends it by itself"
    monitor.request_stop()
    assert isinstance(monitor.outcome(), TrainingError)


def test_where_workers_stood_is_said_when_one_is_gone_without_a_word() -> None:
    """NCCL ends the process of a worker that has waited too long for another."""
    monitor = RunMonitor("runs/a", "2 workers")
    monitor.begin()
    monitor.beat(Beat(0, "a", 1, "engine/step.py:85 __call__"), 2)
    monitor.beat(Beat(1, "b", 2, "storage/s3.py:90 read"), 2)
    monitor.push(WorkersFailed("worker_lost", "worker 0: The actor died"))
    (text,) = notices(monitor)
    assert "worker 1 on b (process 2) at storage/s3.py:90 read" in text
    monitor.push(WorkersFailed("error", "worker 0: ..."))
    assert notices(monitor) == [], "errors say it themselves"
