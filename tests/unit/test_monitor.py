"""What the line between workers and driver says by itself."""

from __future__ import annotations

import pytest

from raypose.launch import monitor as monitors
from raypose.launch.monitor import RunMonitor
from raypose.telemetry import Notice, WorkersFailed


def notices(monitor: RunMonitor) -> list[str]:
    return [event.text for event in monitor.drain() if isinstance(event, Notice)]


def test_a_run_that_no_node_has_room_for_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = RunMonitor("2 workers of 4 CPU")
    assert notices(monitor) == []
    monkeypatch.setattr(monitors, "SLOW_START_S", -1.0)
    assert ["2 workers of 4 CPU" in text for text in notices(monitor)] == [True]
    assert notices(monitor) == [], "once is enough"
    monitor.begin()
    monitor.push(WorkersFailed("node_lost", "worker 1"))
    assert len(notices(monitor)) == 1, "and once more when it has lost what it had"


def test_workers_that_have_begun_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitors, "SLOW_START_S", -1.0)
    monitor = RunMonitor("1 worker")
    monitor.begin()
    assert notices(monitor) == []
