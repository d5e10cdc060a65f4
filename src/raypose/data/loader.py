"""Batches for training: the plan's samples, read, decoded and augmented, in this process or in loader processes.

What a batch holds depends on (seed, step, lane) alone, never on who makes it or what was made before.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from raypose.config.schema import AugmentConfig
from raypose.data.plan import Plan, SampleRef, sample_rng
from raypose.data.shard_set import ShardSet
from raypose.errors import DataError, RayposeError
from raypose.structures import Batch, FloatArray, ImageArray, IntArray
from raypose.vision.augment import Labelled, TrainingImage, build_training_image
from raypose.vision.decode import decode_rgb

if TYPE_CHECKING:
    import torch

MAX_REPLACEMENTS = 16
"""Partners tried in place of an image that does not decode, before giving up."""


class TrainLoader:
    """Yields, for each step from `start_step` up to `end_step`, one batch for each of `lanes`, in their order.

    An image that does not decode is replaced by another one of its window and counted in `bad_images`; once more
    than `max_bad_fraction` are bad (of the images read or, until one epoch has passed, of an epoch's), iterating
    raises DataError with the last one's name. `loader_workers` 0 works in this process. `epochs` says when
    `augment.close_mosaic` begins.
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
        max_bad_fraction: float = 0.0,
    ) -> None:
        self._source = _BatchSource(shards, plan, tuple(lanes), augment, imgsz, seed, epochs, start_step)
        self._steps = range(start_step, end_step)
        self._loader_workers = loader_workers
        self._max_bad_fraction = max_bad_fraction
        self._images_of_epoch = plan.samples * len(lanes) / plan.lanes
        self.images_read = 0
        self.bad_images = 0

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        lanes = len(self._source.lanes)
        count = len(self._steps) * lanes
        workers = self._loader_workers
        parts = _make_in_processes(self._source, count, workers) if workers else map(self._source.make, range(count))
        for _ in self._steps:
            yield tuple(self._checked(next(parts)) for _ in range(lanes))

    def _checked(self, part: _Made) -> Batch:
        self.images_read += part.images_read
        self.bad_images += len(part.bad)
        if self.bad_images > self._max_bad_fraction * max(self.images_read, self._images_of_epoch):
            raise DataError(
                f"{part.bad[-1] if part.bad else 'data'}; {self.bad_images} of {self.images_read} images are bad,"
                f" data.max_bad_fraction allows {self._max_bad_fraction:g}"
            )
        return part.batch


@dataclass(frozen=True, slots=True)
class _Made:
    batch: Batch
    images_read: int
    bad: tuple[str, ...]
    """What is wrong with each image that had to be replaced."""


@dataclass(frozen=True)
class _BatchSource:
    """Batch `number` is that of lane number % L in step start_step + number // L. Picklable."""

    shards: ShardSet
    plan: Plan
    lanes: tuple[int, ...]
    augment: AugmentConfig
    imgsz: int
    seed: int
    epochs: int
    start_step: int

    def make(self, number: int) -> _Made:
        step, local_lane = divmod(number, len(self.lanes))
        reading = _Reading(self.shards, self.plan, self.imgsz)
        refs = self.plan.references(self.start_step + step, self.lanes[local_lane])
        ids, images = zip(*(self._training_image(ref, reading) for ref in refs), strict=True)
        return _Made(_collate(images, ids, self.imgsz), reading.images_read, tuple(reading.bad))

    def _training_image(self, ref: SampleRef, reading: _Reading) -> tuple[str, TrainingImage]:
        rng = sample_rng(self.seed, ref)
        open_epochs = self.epochs - self.augment.close_mosaic
        mosaic = rng.random() < self.augment.mosaic and ref.epoch < open_epochs
        sample_id, primary = reading.labelled(ref, rng)
        partners = self.plan.partners(ref, rng, 3) if mosaic else ()
        return sample_id, build_training_image(
            primary,
            [reading.labelled(partner, rng)[1] for partner in partners],
            self.augment,
            imgsz=self.imgsz,
            flip_index=self.shards.skeleton.flip_index,
            rng=rng,
        )


class _Reading:
    """Reads and decodes the images of one batch, and keeps count of those that do not decode."""

    def __init__(self, shards: ShardSet, plan: Plan, imgsz: int) -> None:
        self._shards = shards
        self._plan = plan
        self._imgsz = imgsz
        self.images_read = 0
        self.bad: list[str] = []

    def labelled(self, ref: SampleRef, rng: np.random.Generator) -> tuple[str, Labelled]:
        """The referenced sample's id and image, or those of the first of its partners that decodes."""
        for attempt in range(MAX_REPLACEMENTS):
            candidate = ref if attempt == 0 else self._plan.partners(ref, rng, 1)[0]
            sample = self._shards.sample(candidate.shard, candidate.index)
            self.images_read += 1
            where = f"{self._shards.manifest.shards[candidate.shard].name}, sample {sample.id!r}"
            reduce = _reduction(sample.width, sample.height, self._imgsz)
            try:
                image = decode_rgb(sample.image, where, reduce=reduce)
                _check_size(image, sample.width, sample.height, reduce, where)
            except DataError as error:
                self.bad.append(str(error))
                continue
            return sample.id, Labelled(image, sample.people, sample.width, sample.height)
        raise DataError(f"{self.bad[-1]}; {MAX_REPLACEMENTS - 1} others of its window tried in its place are bad too")


def _reduction(width: int, height: int, imgsz: int) -> int:
    """Decode at 1/2 or 1/4 where that still leaves the imgsz pixels along the long side that training uses."""
    for reduce in (4, 2):
        if max(width, height) >= reduce * imgsz and min(width, height) >= reduce:
            return reduce
    return 1


def _check_size(image: ImageArray, width: int, height: int, reduce: int, where: str) -> None:
    found_height, found_width = image.shape[:2]
    # Decoders round the sides of a reduced image up or down.
    if abs(found_width * reduce - width) >= reduce or abs(found_height * reduce - height) >= reduce:
        scale = f" at 1/{reduce} of its size" if reduce > 1 else ""
        raise DataError(
            f"{where}: decodes to {found_width}x{found_height}{scale}, its labels are for {width}x{height};"
            " rebuild the shards with 'raypose data build'"
        )


def _collate(images: Sequence[TrainingImage], ids: Sequence[str], imgsz: int) -> Batch:
    image_B3HW = np.empty((len(images), 3, imgsz, imgsz), np.uint8)
    for planes_3HW, item in zip(image_B3HW, images, strict=True):
        cv2.split(item.image, list(planes_3HW))  # 3 times as fast as a transposing copy
    people = [len(item.class_N) for item in images]
    return Batch(
        image_B3HW,
        np.concatenate([item.class_N for item in images]),
        np.concatenate([item.box_cxcywh_N4 for item in images]),
        np.concatenate([item.keypoints_NK3 for item in images]),
        np.repeat(np.arange(len(images)), people),
        tuple(ids),
    )


def _make_in_processes(source: _BatchSource, count: int, workers: int) -> Iterator[_Made]:
    """Batches 0..count-1 in order, made ahead by processes that end with this one."""
    import torch
    from torch.utils.data import DataLoader

    items: Any = _TensorSource(source, count)
    loader: DataLoader[Any] = DataLoader(
        items,
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_start_worker,
        # A forked child of a process with threads (torch's, Ray's) may hang on a lock that nobody holds.
        multiprocessing_context="spawn",
        # Without a generator of its own the loader would draw from torch's global one.
        generator=torch.Generator(),
    )
    for part in loader:
        if isinstance(part, RayposeError):
            raise part
        yield _from_tensors(*part)


@dataclass(frozen=True)
class _TensorSource:
    """The source as torch's loader wants it: arrays as tensors, which it hands over in shared memory.

    An error of ours is an item too: torch would wrap its one line in a traceback.
    """

    source: _BatchSource
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> RayposeError | tuple[tuple[torch.Tensor, ...], tuple[Any, ...]]:
        import torch

        try:
            made = self.source.make(number)
        except RayposeError as error:
            return error
        batch = made.batch
        arrays: tuple[ImageArray | FloatArray | IntArray, ...] = (
            batch.image_B3HW,
            batch.class_N,
            batch.box_cxcywh_N4,
            batch.keypoints_NK3,
            batch.image_index_N,
        )
        return tuple(torch.from_numpy(array) for array in arrays), (batch.ids, made.images_read, made.bad)


def _from_tensors(tensors: tuple[torch.Tensor, ...], rest: tuple[Any, ...]) -> _Made:
    ids, images_read, bad = rest
    image_B3HW, class_N, box_cxcywh_N4, keypoints_NK3, image_index_N = (tensor.numpy() for tensor in tensors)
    return _Made(Batch(image_B3HW, class_N, box_cxcywh_N4, keypoints_NK3, image_index_N, ids), images_read, bad)


def _unchanged(item: Any) -> Any:
    return item


def _start_worker(_: int) -> None:
    """One thread a process (torch's loader sees to its own); an interrupt is the parent's to handle."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
