"""Where pieces of work are done: in this process, or in processes of this machine. Ray's is in `launch`."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Protocol, TypeVar

from raypose.errors import RayposeError

Task = TypeVar("Task")
Result = TypeVar("Result")

_PATIENCE_S = 10.0


class Runner(Protocol):
    """Does independent pieces of work."""

    def run(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Generator[tuple[int, Result], None, None]:
        """(index of the task, its result), whichever is done first. What `work` raises is raised here, at once.

        Closing the iterator ends all work before it returns.
        """


@dataclass(frozen=True, slots=True)
class InProcess:
    """One piece after another, here."""

    def run(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Generator[tuple[int, Result], None, None]:
        yield from enumerate(map(work, tasks))


@dataclass(frozen=True, slots=True)
class LocalProcesses:
    """Up to `workers` processes, which end with this one, however it ends. One that dies fails the whole."""

    workers: int

    def run(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Generator[tuple[int, Result], None, None]:
        workers = min(self.workers, len(tasks))
        if workers <= 1:
            yield from InProcess().run(work, tasks)
            return
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
        crew: list[_Worker] = []
        try:
            crew.extend(_Worker.start(context, work) for _ in range(workers))
            yield from _deal(crew, tasks)
        finally:
            for worker in crew:
                worker.process.terminate()
            for worker in crew:
                worker.end()


def in_order(results: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """Results by the index of their task, each as soon as all before it are there."""
    early: dict[int, Result] = {}
    expected = 0
    for index, result in results:
        early[index] = result
        while expected in early:
            yield early.pop(expected)
            expected += 1


def outcome_of(work: Callable[[Task], Result], task: Task) -> Result | Exception:
    """What `work` returns or raises, as a value that can be sent; a traceback does not travel, so it becomes a note."""
    try:
        return work(task)
    except Exception as error:
        error.add_note(traceback.format_exc())
        return error


@dataclass(frozen=True, slots=True)
class _Worker:
    process: SpawnProcess
    connection: Connection

    @classmethod
    def start(cls, context: SpawnContext, work: Callable[[Any], Any]) -> _Worker:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, work), daemon=True)
        process.start()
        there.close()  # so that the end of the process closes the pipe
        return cls(process, here)

    def give(self, task: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # a dead process is told by its silence
            self.connection.send(task)

    def outcome(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            self.process.join(_PATIENCE_S)
            raise RayposeError(
                f"a worker process ended with exit code {self.process.exitcode} (-9: killed, perhaps for want of"
                " memory); try fewer workers"
            ) from error

    def end(self) -> None:
        self.process.join(_PATIENCE_S)
        self.process.kill()
        self.process.join()
        self.connection.close()


def _deal(crew: list[_Worker], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Give a task to whoever is idle, until all are done."""
    left = iter(enumerate(tasks))
    idle, busy = list(crew), dict[Any, tuple[_Worker, int]]()
    while True:
        for worker, (index, task) in zip(idle, left):  # noqa: B905 - workers or tasks run out first
            busy[worker.connection] = worker, index
            worker.give(task)
        idle = []
        if not busy:
            return
        for connection in wait(list(busy)):
            worker, index = busy.pop(connection)
            outcome = worker.outcome()
            if isinstance(outcome, Exception):
                raise outcome
            idle.append(worker)
            yield index, outcome


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    """A worker process: tasks in, outcomes out, until it is told to end or nobody is there any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unlike the default, this removes temporary files
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            connection.send(outcome_of(work, connection.recv()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
