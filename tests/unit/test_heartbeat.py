"""Which workers are silent, and where each of them stands."""

from __future__ import annotations

from raypose.launch.heartbeat import SILENT_AFTER_S, Beat, Heartbeats, place_of


def beat(rank: int, pid: int = 100) -> Beat:
    return Beat(rank, "node-a", pid + rank, "engine/step.py:85 __call__")


def test_a_silent_worker_is_named_once_with_its_host() -> None:
    beats = Heartbeats()
    for rank in (0, 1):
        beats.note(beat(rank), 2, now_s=0.0)
    assert beats.newly_silent(SILENT_AFTER_S) == []
    beats.note(beat(0), 2, now_s=SILENT_AFTER_S)
    (silent,) = beats.newly_silent(SILENT_AFTER_S + 1)
    assert str(silent) == "worker 1 on node-a (process 101) at engine/step.py:85 __call__"
    assert beats.newly_silent(SILENT_AFTER_S + 2) == []


def test_a_worker_that_falls_silent_again_is_named_again() -> None:
    beats = Heartbeats()
    beats.note(beat(0), 1, now_s=0.0)
    assert beats.newly_silent(100.0)
    beats.note(beat(0), 1, now_s=101.0)
    assert beats.newly_silent(102.0) == []
    assert beats.newly_silent(200.0)


def test_workers_that_ended_or_belong_to_a_larger_group_of_before_are_not_missed() -> None:
    beats = Heartbeats()
    for rank in range(3):
        beats.note(beat(rank), 3, now_s=0.0)
    beats.note(beat(0, pid=200), 2, now_s=30.0)  # restarted with two
    beats.forget(1)
    assert beats.newly_silent(31.0) == []


def test_where_all_stand_is_said_in_order_of_ranks() -> None:
    beats = Heartbeats()
    beats.note(beat(1), 2, now_s=5.0)
    beats.note(beat(0), 2, now_s=9.0)
    assert beats.standing(10.0) == f"{beat(0)}, 1 s ago; {beat(1)}, 5 s ago"


def test_a_place_is_the_innermost_line_of_raypose() -> None:
    import raypose

    package = raypose.__file__.removesuffix("/__init__.py")
    frames = [
        ("/torch/functional.py", 9, "conv"),
        (f"{package}/engine/step.py", 85, "run"),
        (f"{package}/api.py", 1, "x"),
    ]
    assert place_of(frames) == "engine/step.py:85 run"
    assert place_of([]) == "its end"
