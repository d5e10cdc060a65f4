"""Batches for training, in order: made by the caller, ahead of him by threads, or ahead of him by processes.

Decoding and resizing leave Python to other threads, what augmentation computes does not. So threads are the faster way
where few are needed, start at once and share all memory; processes go on where Python's lock would stop threads.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Literal

import cv2
import numpy as np

from raypose.config.schema import AugmentConfig
from raypose.data.pixel_cache import PixelCache
from raypose.data.plan import Plan
from raypose.data.prefetch import shards_ahead
from raypose.data.processes import make_in_processes
from raypose.data.shard_set import ShardSet
from raypose.data.source_batch import SourceBatch
from raypose.data.threads import map_in_threads
from raypose.data.training_batch import BatchSource, HandOver, Made
from raypose.errors import DataError
from raypose.structures import Batch, ImageArray

LoaderKind = Literal["auto", "threads", "processes"]

MAX_THREADS = 2
"""`auto` takes threads up to here: a fifth of the work on an image holds Python's lock, and training wants it, too."""
BATCHES_AHEAD = 2
"""Made ahead for each loader worker, so that none waits while the model takes a batch."""


class TrainLoader:
    """Yields, for each step from `start_step` up to `end_step`, one batch for each of `lanes`, in their order.

    An image that does not decode is replaced by another one of its window and counted in `bad_images`; once more
    than `max_bad_fraction` are bad (of the images read or, until one epoch has passed, of an epoch's), iterating
    raises DataError with the last one's name. `epochs` says when `augment.close_mosaic` begins.

    `loader_workers` 0 works when a batch is asked for, in the caller's thread or, for him, in `threads` that share out
    the images of the batch. Otherwise so many threads or processes (`kind`) make up to `batches_ahead` batches before
    they are asked for, which bounds memory. Threads and processes end with the iterator, processes also with this
    process, however it ends.
    `pin_memory` puts pixels where a GPU can copy them from while the program goes on. `hand_over` says how far batches
    are made: other than "pictures", they are SourceBatches. Images are decoded once where there are `pixels` to keep.
    """

    def __init__(
        self,
        shards: ShardSet,
        plan: Plan,
        lanes: Sequence[int],
        augment: AugmentConfig,
        *,
        imgsz: int,
        seed: int,
        epochs: int,
        start_step: int,
        end_step: int,
        loader_workers: int = 0,
        threads: int = 1,
        kind: LoaderKind = "auto",
        batches_ahead: int | Literal["auto"] = "auto",
        max_bad_fraction: float = 0.0,
        pin_memory: bool = False,
        hand_over: HandOver = "pictures",
        pixels: PixelCache | None = None,
    ) -> None:
        self._source = BatchSource(
            shards, plan, tuple(lanes), augment, imgsz, seed, epochs, start_step, hand_over, pixels
        )
        self._steps = range(start_step, end_step)
        self._loader_workers = loader_workers
        self._threads = threads
        self._in_threads = kind == "threads" or (kind == "auto" and loader_workers <= MAX_THREADS)
        self._batches_ahead = BATCHES_AHEAD * loader_workers if batches_ahead == "auto" else batches_ahead
        self._max_bad_fraction = max_bad_fraction
        self._pin_memory = pin_memory
        self._images_of_epoch = plan.samples * len(lanes) / plan.lanes
        self.images_read = 0
        self.bad_images = 0

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[tuple[Batch | SourceBatch, ...]]:
        plan, lanes, end_step = self._source.plan, self._source.lanes, self._steps.stop
        with (
            self._source.shards.reading_ahead(lambda step: shards_ahead(plan, lanes, step, end_step)) as move_on,
            closing(self._make(range(len(self._steps) * len(lanes)))) as parts,
        ):
            for step in self._steps:
                move_on(step)
                yield tuple(self._checked(next(parts)) for _ in lanes)

    def _make(self, numbers: range) -> Generator[Made]:
        workers, ahead = self._loader_workers, self._batches_ahead
        if workers == 0:
            return self._make_when_asked(numbers)
        if self._in_threads:
            return map_in_threads(self._make_here, numbers, threads=workers, ahead=ahead)
        return make_in_processes(self._source, numbers, workers=workers, ahead=ahead, allocate=self._allocate)

    def _make_when_asked(self, numbers: range) -> Generator[Made]:
        if self._threads == 1:
            yield from map(self._make_here, numbers)
            return
        # OpenCV would divide the work on each image once more, among threads of its own.
        before = cv2.getNumThreads()
        cv2.setNumThreads(0)
        try:
            with ThreadPoolExecutor(self._threads, thread_name_prefix="raypose-loader") as threads:
                yield from (self._source.make(number, self._allocate, threads) for number in numbers)
        finally:
            cv2.setNumThreads(before)

    def _make_here(self, number: int) -> Made:
        return self._source.make(number, self._allocate)

    def _allocate(self, size: int) -> ImageArray:
        if not self._pin_memory:
            return np.empty(size, np.uint8)
        import torch

        # torch keeps pinned memory for the next batch, and not before copies from it are done.
        pinned: ImageArray = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
        return pinned

    def made_of_pixels(self, number: int) -> SourceBatch:
        """Batch `number` again, all of its images decoded here: what is damaged is replaced, counted and named."""
        made = replace(self._source, hand_over="pixels").make(number, self._allocate)
        batch = self._checked(replace(made, images_read=0))  # they were counted the first time
        assert isinstance(batch, SourceBatch)
        return batch

    def _checked(self, part: Made) -> Batch | SourceBatch:
        self.images_read += part.images_read
        self.bad_images += len(part.bad)
        if self.bad_images > self._max_bad_fraction * max(self.images_read, self._images_of_epoch):
            raise DataError(
                f"{part.bad[-1] if part.bad else 'data'}; {self.bad_images} of {self.images_read} images are bad,"
                f" data.max_bad_fraction allows {self._max_bad_fraction:g}"
            )
        return part.batch
