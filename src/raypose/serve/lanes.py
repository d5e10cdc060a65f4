"""Images of many requests meet here: each lane takes what has gathered while it was busy, and waits for no more."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from raypose.inference import Fitted, Selection
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


class WaitingRoom:
    """Jobs in order of arrival, taken by kinds: the one that has waited longest decides which."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, job: Job) -> None:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def take(self, most: int) -> list[Job]:
        """The oldest job and others of its kind, as many as one call takes; waits for one. Empty once closed."""
        with self._changed:
            while True:
                while self._jobs and self._jobs[0].given_up:
                    self._jobs.popleft()
                if self._jobs:
                    return self._take(most)
                if self._closed:
                    return []
                self._changed.wait()

    def close(self) -> None:
        """Let lanes end once everything is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

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
    """Threads that call models. `observe` hears of each call: its jobs, and its seconds in the model and in all."""

    def __init__(
        self,
        count: int,
        most: int,
        observe: Callable[[Sequence[Job], float, float], None],
        *,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._room = WaitingRoom()
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
        while jobs := self._room.take(self._most):
            self._answer(lane, jobs)
            self._called_s[lane] = None

    def _answer(self, lane: int, jobs: Sequence[Job]) -> None:
        taken_s = self._called_s[lane] = time.perf_counter()
        try:
            found = jobs[0].model.find(lane, [job.fitted for job in jobs], [job.selection for job in jobs])
        except Exception as error:  # whatever a runtime throws is one request's misfortune, not the lane's end
            if len(jobs) > 1:
                for job in jobs:  # only the one that is to blame shall fail
                    self._answer(lane, [job])
                return
            model = jobs[0].model
            log_failure({"error": type(error).__name__, "detail": str(error), "version": model.version})
            self._settle([(jobs[0], Problem("internal", f"the model failed on this image: {type(error).__name__}"))])
            model.examine(lane)
            return
        self._observe(jobs, found.inference_s, found.total_s)
        share_s = (found.total_s - found.inference_s) / len(jobs)
        self._settle(
            [
                (job, Answer(poses, taken_s - job.queued_s, found.inference_s, share_s, len(jobs)))
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
