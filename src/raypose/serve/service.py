"""A request's way through a replica: admitted, decoded, queued, predicted. Knows nothing of HTTP or Ray."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from raypose.config.serve_schema import ServeConfig
from raypose.errors import RayposeError
from raypose.inference import Selection
from raypose.serve.drift import Look
from raypose.serve.lanes import Answer, Job, Lanes
from raypose.serve.loading import Model
from raypose.serve.metrics import ServeMetrics
from raypose.serve.models import Library, Role, Wanted
from raypose.serve.parameters import selection_of
from raypose.serve.problem import Problem, log_failure
from raypose.serve.uploads import Upload, pixels_of
from raypose.structures import ImageArray, Poses

Made = TypeVar("Made")
_SMOOTHING = 0.1
"""Weight of the newest image in the mean time an image takes, from which Retry-After is told."""
_HANGS_AFTER = 3
"""Times `limits.request_s`: nobody has waited for the answer for long."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The people in one image that was sent, and the seconds of each stage. `image_HW3` where it is wanted."""

    name: str
    width: int
    height: int
    poses: Poses
    stage_s: dict[str, float]
    batch: int
    image_HW3: ImageArray | None = None


@dataclass(frozen=True, slots=True)
class Predicted:
    """All images of a request, in order; a Problem in the place of an image that has one."""

    role: Role
    model: Model
    images: tuple[Prediction | Problem, ...]


@dataclass(frozen=True, slots=True)
class _Queued:
    """What is kept of an image that waits for its answer: its pixels only where they are wanted, as many may wait."""

    width: int
    height: int
    decode_s: float
    image_HW3: ImageArray | None

    @property
    def pixels(self) -> int:
        return self.width * self.height


class Service:
    """Everything between bytes and poses. Belongs to the event loop that it was made in."""

    def __init__(self, config: ServeConfig, library: Library, metrics: ServeMetrics) -> None:
        self.config = config
        self.library = library
        self.metrics = metrics
        self.pending = 0
        self.draining = False
        self._loop = asyncio.get_running_loop()
        self._asked = 0
        self._compared = selection_of(config.defaults)
        self._image_s = 0.02
        # Decoding shares the cores with the model: more threads would only take them from it.
        self._pool = ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1)), thread_name_prefix="raypose-decode")
        on_gpu = torch.cuda.is_available() and config.compute.device != "cpu"
        cores = 0 if on_gpu else torch.get_num_threads()
        self._lanes = Lanes(cores, config.compute.batch, self._observe_batch, loop=self._loop)

    async def change(self, wanted: Wanted) -> bool:
        """Serve other models from now on; see `Library.change`."""
        return await self._changed(lambda: self.library.change(wanted))

    async def follow(self) -> bool:
        """Serve the run's best checkpoint; see `Library.follow`."""
        return await self._changed(self.library.follow)

    async def refuse(self, what: str, error: Exception) -> None:
        """Tell of a change that cannot even be tried; see `Library.refuse`."""
        await self._changed(lambda: self.library.refuse(what, error))

    async def _changed(self, change: Callable[[], bool]) -> bool:
        known = set(self.library.refusals.items())
        done = await _in_a_thread_of_its_own(change)
        if done:
            self.metrics.change("changed")
            self.metrics.models([(role, model.version, model.compute) for role, model in self.models()])
        refused = [refusal for refusal in list(self.library.refusals.items()) if refusal not in known]
        if refused:
            self.metrics.change("refused")
        for place, reason in refused:
            log_failure({"refused": place, "detail": reason})
        return done

    def model(self, wanted: str | None) -> tuple[Role, Model]:
        """The model of a role or version, or the one whose turn it is; Problem where there is none."""
        shelf = self.library.shelf
        if shelf is None:
            raise Problem("not_ready", "no model is loaded yet", retry_after_s=5)
        if wanted is None:
            self._asked += 1
            return shelf.pick(self._asked - 1)
        named = shelf.named(wanted)
        if named is None:
            here = ", ".join(f"{role} ({model.version})" for role, model in shelf.all())
            raise Problem("no_such_model", f"no model {wanted[:100]!r}; here are {here}")
        return named

    def models(self) -> list[tuple[Role, Model]]:
        """Those that answer now."""
        return [] if self.library.shelf is None else self.library.shelf.all()

    def require_sound(self) -> None:
        """RayposeError where a model fails whatever it is given, or hangs: another process may have one that works."""
        called_s = self._lanes.longest_call_s()
        if called_s > _HANGS_AFTER * self.config.limits.request_s:
            raise RayposeError(f"a model has not answered for {called_s:.0f} s; this replica has to be replaced")
        for _, model in self.models():
            if model.fault:
                raise RayposeError(f"{model.version}, {model.compute}: {model.fault}; this replica has to be replaced")

    def require_ready(self) -> None:
        """Problem unless a model is loaded and requests are taken."""
        if self.draining:
            raise Problem("not_ready", "this replica is about to end", retry_after_s=1)
        self.model("stable")

    @contextmanager
    def admitted(self, images: int) -> Iterator[None]:
        """Room for so many images until the end of the block; Problem where there is none."""
        if self.pending and self.pending + images > self.config.limits.queue_images:
            wait_s = max(1, math.ceil(self.pending * self._image_s))
            raise Problem("overloaded", f"{self.pending} images are waiting already", retry_after_s=wait_s)
        self.pending += images
        self.metrics.pending(self.pending)
        try:
            yield
        finally:
            self.pending -= images
            self.metrics.pending(self.pending)

    async def in_pool(self, work: Callable[[], Made]) -> Made:
        """Work that would keep the event loop from answering others."""
        return await self._loop.run_in_executor(self._pool, work)

    async def predict(
        self,
        uploads: Sequence[Upload | ImageArray],
        selection: Selection,
        answering: tuple[Role, Model],
        *,
        keep_pixels: bool = False,
    ) -> Predicted:
        """The people of every image; those with a Problem have it in their place.

        The caller has been admitted, and told by `model` who answers.
        """
        role, model = answering
        work = [self._predict_one(upload, model, selection, keep_pixels=keep_pixels) for upload in uploads]
        try:
            async with asyncio.timeout(self.config.limits.request_s):
                found = await _all(work)
        except TimeoutError:
            limit_s = self.config.limits.request_s
            raise Problem("timed_out", f"no answer within {limit_s:g} s", retry_after_s=5) from None
        return Predicted(role, model, tuple(found))

    async def _predict_one(
        self, upload: Upload | ImageArray, model: Model, selection: Selection, *, keep_pixels: bool
    ) -> Prediction | Problem:
        arrived_s = time.perf_counter()
        answer: asyncio.Future[Answer] = self._loop.create_future()

        def prepare() -> _Queued:
            if answer.done():  # given up while it waited for a thread: nobody reads this
                raise Problem("timed_out", "given up")
            image_HW3 = pixels_of(upload, self.config.limits) if isinstance(upload, Upload) else upload
            job = Job(model, model.fit(image_HW3, "image"), selection, answer)
            self._lanes.put(job)
            height, width = image_HW3.shape[:2]
            return _Queued(width, height, job.queued_s - arrived_s, image_HW3 if keep_pixels else None)

        try:
            queued = await self.in_pool(prepare)
            answered = await answer
        except Problem as problem:
            return problem
        except Exception as error:  # whatever a decoder throws is one image's misfortune, not that of those beside it
            log_failure({"error": type(error).__name__, "detail": str(error), "version": model.version})
            return Problem("internal", f"the service failed on this image: {type(error).__name__}")
        finally:
            answer.cancel()  # for nothing, where it is answered
        self._compare(model, selection, queued.pixels, answered.poses)
        name = upload.name if isinstance(upload, Upload) else "image"
        return self._prediction(name, queued, model, answered)

    def _prediction(self, name: str, queued: _Queued, model: Model, answered: Answer) -> Prediction:
        stage_s = {
            "decode": queued.decode_s,
            "queue": answered.queue_s,
            "inference": answered.inference_s,
            "select": answered.select_s,
        }
        self.metrics.image(model.version, answered.poses, queued.pixels / 1e6, stage_s)
        return Prediction(name, queued.width, queued.height, answered.poses, stage_s, answered.batch, queued.image_HW3)

    def _compare(self, model: Model, selection: Selection, pixels: int, poses: Poses) -> None:
        """With the reference of the model, where a request took the thresholds that its figures have."""
        if model.drift is None or selection != self._compared:
            return
        model.drift.observe(Look.of(pixels, poses))
        indices = model.drift.indices()
        # One that was replaced still answers what it had; a figure of it would be cleared by nobody.
        if indices is not None and any(model is serving for _, serving in self.models()):
            self.metrics.drift(model.version, indices)

    def _observe_batch(self, jobs: Sequence[Job], inference_s: float, total_s: float) -> None:
        self._image_s += _SMOOTHING * (total_s / len(jobs) - self._image_s)
        self.metrics.batch(len(jobs), inference_s)

    async def drained(self) -> None:
        """Return once everything that was accepted is answered."""
        self.draining = True
        while self.pending:
            await asyncio.sleep(0.02)

    def close(self) -> None:
        """End all threads; what waits in lanes is still answered."""
        self._lanes.close()
        self._pool.shutdown(cancel_futures=True)


async def _in_a_thread_of_its_own(change: Callable[[], bool]) -> bool:
    """It tries models, for which PyTorch gives the thread helpers, and ends with them.

    If they stayed there would be more threads than cores. OpenMP then has all of them sleep whenever they wait for each
    other, and every later call of the model takes half as long again.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="raypose-models")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, change)
    finally:
        thread.shutdown(wait=False)


async def _all(work: Sequence[Awaitable[Made]]) -> list[Made]:
    """One after the other costs a task less, and most requests have one image."""
    return [await work[0]] if len(work) == 1 else list(await asyncio.gather(*work))
