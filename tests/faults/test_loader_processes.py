"""Nothing is left of a loader, whatever ends the program that uses it: no process, no thread, no shared memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PROGRAM = Path(__file__).with_name("loader_program.py")
PATIENCE_S = 60.0
"""Far more than is ever needed; a loaded machine is slow, a leak is for ever."""


class Running:
    """The program, and the loader processes that it said it has."""

    def __init__(self, shards: Path, kind: str, deed: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, shards, kind, deed], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout
        self.loader_pids: list[int] = json.loads(self.output.readline())

    def rest(self) -> list[str]:
        lines = self.output.read().splitlines()  # `communicate` would miss what was read along with the first line
        self.process.wait(PATIENCE_S)
        return lines


@pytest.fixture
def shards(sound_workplace: Path) -> Path:
    return sound_workplace / "train"


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"left: {alive}"
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["threads", "processes"])
@pytest.mark.parametrize(("deed", "says"), [("raise", "ValueError: the consumer failed"), ("close", None)])
def test_an_exception_or_a_close_leaves_no_process_and_no_thread(
    shards: Path, kind: str, deed: str, says: str | None
) -> None:
    running = Running(shards, kind, deed)
    assert len(running.loader_pids) == (2 if kind == "processes" else 0)
    *message, left = running.rest()
    assert json.loads(left) == [[], []]
    assert message == ([says] if says else [])
    assert_gone(running.loader_pids)
    assert running.process.returncode == 0


@pytest.mark.parametrize("deed", ["wait", "keep-taking"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_a_killed_program_takes_its_loader_along(shards: Path, kind: str, sent: signal.Signals, deed: str) -> None:
    running = Running(shards, kind, deed)
    running.process.send_signal(sent)
    assert running.process.wait(PATIENCE_S) == -sent
    assert_gone(running.loader_pids)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux has memory without a name")
def test_what_processes_share_has_no_name_that_could_be_left_behind(shards: Path) -> None:
    running = Running(shards, "processes", "wait")
    shared = {
        mapping.path
        for pid in running.loader_pids
        for mapping in psutil.Process(pid).memory_maps()
        if mapping.path.startswith(("/dev/shm", "/memfd"))
    }
    running.process.kill()
    running.process.wait(PATIENCE_S)
    assert shared == {"/memfd:raypose-batches"}  # the other process may not have got so far


def test_loader_processes_end_even_where_a_fork_of_their_parent_lives_on(shards: Path) -> None:
    running = Running(shards, "processes", "fork")
    parent = psutil.Process(running.process.pid)
    deadline = time.monotonic() + PATIENCE_S
    fork = []
    while not fork and time.monotonic() < deadline:
        fork = [child for child in parent.children() if child.cmdline() == parent.cmdline()]
    running.process.kill()
    try:
        assert_gone(running.loader_pids)
        assert fork[0].is_running()
    finally:
        fork[0].kill()
        running.process.wait(PATIENCE_S)


def test_the_death_of_a_loader_process_is_one_line_that_says_which_and_why(shards: Path) -> None:
    running = Running(shards, "processes", "lose-one")
    message, left = running.rest()
    assert message.startswith("TrainingError: raypose-loader-")
    assert f"(pid {running.loader_pids[0]}) was killed by signal 9" in message
    assert "data.loader_workers" in message
    assert json.loads(left) == [[], []]
    assert_gone(running.loader_pids)
