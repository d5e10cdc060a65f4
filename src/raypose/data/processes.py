"""Batches made ahead by processes, which write pixels into shared memory that has no name and so cannot be left behind.

A process is started fresh ("spawn"): a forked child of a process with threads (torch's, Ray's) may hang on a lock that
nobody holds. It ends when its pipe closes, and at the latest a second after its parent, whatever ended that.
"""

from __future__ import annotations

import math
import mmap
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import reduction
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import cv2
import numpy as np

from raypose.data.source_batch import Allocate
from raypose.data.training_batch import BatchSource, Made
from raypose.errors import RayposeError, TrainingError
from raypose.structures import ImageArray

_GRACE_S = 1.0
"""What a process gets to finish the batch it is at, before it is killed."""


def make_in_processes(
    source: BatchSource, numbers: range, *, workers: int, ahead: int, allocate: Allocate
) -> Generator[Made]:
    """The source's batches in the order of `numbers`, up to `ahead` of them made before they are asked for.

    Pixels come in memory of `allocate`. An error of raypose's is raised where its batch would have come.
    """
    slots = _Slots.of(ahead, source.usual_bytes)
    with closing(slots), closing(_Crew(source, slots, workers)) as crew:
        free, waiting = list(range(slots.count)), iter(numbers)
        finished: dict[int, tuple[int, _Result]] = {}
        crew.give(waiting, free)
        for number in numbers:
            while number not in finished:
                finished.update(crew.results())
            slot, result = finished.pop(number)
            if isinstance(result, Exception):
                raise result
            made, shape = result
            if shape is not None:
                pixels = allocate(math.prod(shape))
                np.copyto(pixels, slots.memory_of(slot)[: len(pixels)])
                made = made.with_pixels(pixels.reshape(shape))
            free.append(slot)
            crew.give(waiting, free)
            yield made


_Result = tuple[Made, tuple[int, ...] | None] | RayposeError | RuntimeError
"""A batch without its pixels and their shape, or all of it where they did not fit the slot; or why there is none."""


@dataclass(frozen=True, slots=True)
class _Slots:
    """Room for the pixels of `count` batches in memory that processes share by its descriptor."""

    count: int
    size: int
    descriptor: int
    memory: mmap.mmap

    @classmethod
    def of(cls, count: int, size: int) -> _Slots:
        descriptor = _nameless_memory()
        os.ftruncate(descriptor, count * size)  # pages that nobody writes to take no memory
        return cls(count, size, descriptor, mmap.mmap(descriptor, 0))

    def memory_of(self, slot: int) -> ImageArray:
        return np.frombuffer(self.memory, np.uint8, self.size, slot * self.size)

    def close(self) -> None:
        os.close(self.descriptor)
        with suppress(BufferError):  # an array still looks at it; the memory goes with the array
            self.memory.close()

    def __reduce__(self) -> tuple[Callable[..., _Slots], tuple[Any, ...]]:
        return _attach_slots, (self.count, self.size, reduction.DupFd(self.descriptor))


def _attach_slots(count: int, size: int, duplicate: Any) -> _Slots:
    descriptor = duplicate.detach()
    return _Slots(count, size, descriptor, mmap.mmap(descriptor, 0))


def _nameless_memory() -> int:
    # Not /dev/shm: containers often give it 64 MB, and files there outlive a killed process.
    if hasattr(os, "memfd_create"):
        return os.memfd_create("raypose-batches")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    given: int = 0
    """Batches it was told to make and has not sent back."""


class _Crew:
    """The processes: gives them work, collects what they made, and sees them off."""

    def __init__(self, source: BatchSource, slots: _Slots, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        try:
            for number in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_work,
                    args=(theirs, source, slots, os.getpid()),
                    name=f"raypose-loader-{number}",
                    daemon=True,
                )
                process.start()
                theirs.close()  # so that its end closes ours
                self._workers.append(_Worker(process, ours))
        except BaseException:
            self.close()
            raise

    def give(self, numbers: Iterator[int], free: list[int]) -> None:
        """Have the next batches made, one in each free slot, by those who have least to do."""
        for number in islice(numbers, len(free)):
            worker = min(self._workers, key=lambda worker: worker.given)
            worker.given += 1
            with self._explained(worker):
                worker.connection.send((number, free.pop()))

    def results(self) -> Iterator[tuple[int, tuple[int, _Result]]]:
        """What has come since, waiting for at least one: batch number, slot, and the batch or why there is none."""
        ready = wait([worker.connection for worker in self._workers])
        for worker in self._workers:
            if worker.connection in ready:
                with self._explained(worker):
                    number, slot, result = worker.connection.recv()
                worker.given -= 1
                yield number, (slot, result)

    def close(self) -> None:
        """End all processes. Who reads finds his pipe closed; who is at a batch has _GRACE_S to finish it."""
        for worker in self._workers:
            worker.connection.close()
        deadline = time.monotonic() + _GRACE_S
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
            worker.process.join()

    @contextmanager
    def _explained(self, worker: _Worker) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            worker.process.join(_GRACE_S)
            code = worker.process.exitcode
            cause = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
            raise TrainingError(
                f"{worker.process.name} (pid {worker.process.pid}) {cause} while it made batches; if memory ran out,"
                " lower data.loader_workers or data.batches_ahead"
            ) from error


def _work(connection: Connection, source: BatchSource, slots: _Slots, parent: int) -> None:
    """Make the batches that are asked for until nobody asks any more."""
    cv2.setNumThreads(0)  # one core a process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    threading.Thread(target=_end_with, args=(parent,), name="raypose-parent-watch", daemon=True).start()
    with suppress(EOFError, ConnectionError):  # the parent has closed the pipe, or is gone
        while True:
            number, slot = connection.recv()
            connection.send((number, slot, _made(source, number, slots.memory_of(slot))))


def _made(source: BatchSource, number: int, memory: ImageArray) -> _Result:
    """The batch, its pixels in `memory` if they fit, or an error that survives the pipe."""

    def allocate(size: int) -> ImageArray:
        return memory[:size] if size <= len(memory) else np.empty(size, np.uint8)

    try:
        made = source.make(number, allocate)
    except RayposeError as error:
        return error
    except Exception:
        return RuntimeError(f"a loader process failed at batch {number}:\n{traceback.format_exc()}")
    pixels = made.pixels
    if pixels.size > len(memory):
        return made, None
    return made.with_pixels(pixels[:0]), pixels.shape


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, also where a fork of the parent still holds the pipe open."""
    while os.getppid() == parent:
        time.sleep(_GRACE_S)
    os._exit(1)
