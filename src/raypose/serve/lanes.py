"""Images of many requests meet here: each lane takes what has gathered while it was busy, and waits for no more.

On a CPU there are as many lanes as cores, each of which computes in one thread: cores that wait for each other after
every layer get a tenth less done. Where there is too little to do for all of them, a call has all cores to itself, and
answers sooner.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from raypose.inference import Fitted, Selection
from raypose.inference.backends import GPU_LANES
from raypose.serve.loading import Model
from raypose.serve.problem import Problem, log_failure
from raypose.structures import Poses


@dataclass(frozen=True, slots=True)
class Answer:
    """The people of one image, and the seconds that it took to find them."""

    poses: Poses
    queue_s: float
    inference_s: float
    select_s: float
    batch: int


@dataclass(eq=False, slots=True)
class Job:
    """One image on its way. `answer` belongs to the event loop; other threads only ask whether it is done."""

    model: Model
    fitted: Fitted
    selection: Selection
    answer: asyncio.Future[Answer]
    queued_s: float = field(default_factory=time.perf_counter)

    @property
    def given_up(self) -> bool:
        """Nobody waits for the answer any more: the client is gone, or the time is up."""
        return self.answer.done()

    @property
    def kind(self) -> tuple[Model, tuple[int, ...]]:
        """Jobs of a kind go through a model together."""
        return self.model, self.fitted.canvases[0].shape


@dataclass(frozen=True, slots=True)
class Turn:
    """Jobs of one call. `alone`: it may use all cores."""

    jobs: list[Job]
    alone: bool


class WaitingRoom:
    """Jobs in order of arrival, taken by kinds: the one that has waited longest decides which.

    Where `lanes` share the cores of a CPU, it is the first that calls alone: helpers of one thread are as many as there
    are cores.
    """

    def __init__(self, lanes: int, *, shares_cores: bool) -> None:
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._turns: list[Turn | None] = [None] * lanes
        self._shares_cores = shares_cores

    def put(self, job: Job) -> None:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()

    def take(self, lane: int, most: int) -> Turn | None:
        """The oldest job and others of its kind, as many as one call takes; waits for one. None once closed.

        The lane's turn before has ended by then.
        """
        with self._changed:
            self._turns[lane] = None
            self._changed.notify_all()
            while True:
                while self._jobs and self._jobs[0].given_up:
                    self._jobs.popleft()
                if not self._jobs:
                    if self._closed:
                        return None
                elif (turn := self._turn(lane, most)) is not None:
                    self._turns[lane] = turn
                    return turn
                self._changed.wait()

    def close(self) -> None:
        """Let lanes end once everything is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _turn(self, lane: int, most: int) -> Turn | None:
        """None where another lane does better."""
        if not self._shares_cores:
            return Turn(self._take(most), alone=False)
        under_way = sum(turn is not None for turn in self._turns)
        idle = len(self._turns) - under_way
        if len(self._jobs) < idle:
            if lane == 0 and not under_way:
                return Turn(self._take(most), alone=True)
            first = self._turns[0]
            if lane != 0 and (first is None or first.alone):
                return None
        return Turn(self._take(min(most, math.ceil(len(self._jobs) / idle))), alone=False)

    def _take(self, most: int) -> list[Job]:
        first = self._jobs.popleft()
        most = min(most, first.model.images_a_call)
        taken, left = [first], list[Job]()
        while self._jobs and len(taken) < most:
            job = self._jobs.popleft()
            if not job.given_up:
                (taken if job.kind == first.kind else left).append(job)
        self._jobs.extendleft(reversed(left))
        return taken


class Lanes:
    """Threads that call models: one for each of `cores`, or with `cores` 0 those that keep a GPU busy.

    `observe` hears of each call: its jobs, and its seconds in the model and in all; of a call on one of n cores an nth.
    """

    def __init__(
        self,
        cores: int,
        most: int,
        observe: Callable[[Sequence[Job], float, float], None],
        *,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        count = cores or GPU_LANES
        self._cores = cores
        self._room = WaitingRoom(count, shares_cores=cores > 1)
        self._most = most
        self._observe = observe
        self._loop = loop
        self._called_s: list[float | None] = [None] * count
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"raypose-lane-{lane}", daemon=True)
            for lane in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, job: Job) -> None:
        """From any thread."""
        self._room.put(job)

    def longest_call_s(self) -> float:
        """How long the calls have lasted that models have not come back from."""
        now_s = time.perf_counter()
        return max(0.0 if called_s is None else now_s - called_s for called_s in list(self._called_s))

    def close(self) -> None:
        self._room.close()
        for thread in self._threads:
            thread.join()

    def _work(self, lane: int) -> None:
        while (turn := self._room.take(lane, self._most)) is not None:
            if self._cores:
                torch.set_num_threads(self._cores if turn.alone else 1)
            self._answer(lane, turn)
            self._called_s[lane] = None

    def _answer(self, lane: int, turn: Turn) -> None:
        jobs = turn.jobs
        model = jobs[0].model
        taken_s = self._called_s[lane] = time.perf_counter()
        try:
            images, selections = [job.fitted for job in jobs], [job.selection for job in jobs]
            found = model.find(lane, images, selections, alone=turn.alone)
        except Exception as error:  # whatever a runtime throws is one request's misfortune, not the lane's end
            if len(jobs) > 1:
                for job in jobs:  # only the one that is to blame shall fail
                    self._answer(lane, replace(turn, jobs=[job]))
                return
            log_failure({"error": type(error).__name__, "detail": str(error), "version": model.version})
            self._settle([(jobs[0], Problem("internal", f"the model failed on this image: {type(error).__name__}"))])
            model.examine(lane, alone=turn.alone)
            return
        share = 1.0 if turn.alone or not self._cores else 1 / self._cores
        self._observe(jobs, found.inference_s * share, found.total_s * share)
        select_s = (found.total_s - found.inference_s) / len(jobs)
        self._settle(
            [
                (job, Answer(poses, taken_s - job.queued_s, found.inference_s, select_s, len(jobs)))
                for job, poses in zip(jobs, found.poses, strict=True)
            ]
        )

    def _settle(self, outcomes: Sequence[tuple[Job, Answer | Problem]]) -> None:
        self._loop.call_soon_threadsafe(_deliver, outcomes)


def _deliver(outcomes: Sequence[tuple[Job, Answer | Problem]]) -> None:
    for job, outcome in outcomes:
        if job.answer.done():  # given up meanwhile
            continue
        if isinstance(outcome, Problem):
            job.answer.set_exception(outcome)
        else:
            job.answer.set_result(outcome)
