"""One batch of training: the plan's samples, read, decoded and augmented into given memory.

What a batch holds depends on (seed, step, lane) alone, never on who makes it or what was made before.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from raypose.config.schema import AugmentConfig
from raypose.data.plan import Plan, SampleRef, sample_rng
from raypose.data.shard_set import ShardSet
from raypose.errors import DataError
from raypose.structures import Batch, ImageArray
from raypose.vision.augment import draw_training_image
from raypose.vision.canvas import Labelled
from raypose.vision.decode import decode_rgb, reduction_for
from raypose.vision.targets import Layout, targets_of

MAX_REPLACEMENTS = 16
"""Partners tried in place of an image that does not decode, before giving up."""


@dataclass(frozen=True, slots=True)
class Made:
    """A batch and what reading it took."""

    batch: Batch
    images_read: int
    bad: tuple[str, ...]
    """What is wrong with each image that had to be replaced."""


@dataclass(frozen=True)
class BatchSource:
    """Batch `number` is that of lane number % L in step start_step + number // L. Picklable, and shared by threads."""

    shards: ShardSet
    plan: Plan
    lanes: tuple[int, ...]
    augment: AugmentConfig
    imgsz: int
    seed: int
    epochs: int
    start_step: int

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """Shape of every batch's images: B, 3, H, W."""
        return self.plan.micro_batch, 3, self.imgsz, self.imgsz

    def make(self, number: int, image_B3HW: ImageArray) -> Made:
        """The batch, its images written to `image_B3HW`, which becomes part of it."""
        step, local_lane = divmod(number, len(self.lanes))
        reading = _Reading(self.shards, self.plan, self.imgsz)
        refs = self.plan.references(self.start_step + step, self.lanes[local_lane])
        ids, layouts = [], []
        for planes_3HW, ref in zip(image_B3HW, refs, strict=True):
            sample_id, image, layout = self._draw(ref, reading)
            cv2.split(image, list(planes_3HW))  # 3 times as fast as a transposing copy
            ids.append(sample_id)
            layouts.append(layout)
        targets = targets_of(layouts, self.imgsz, self.shards.skeleton.flip_index)
        batch = Batch(
            image_B3HW,
            targets.class_N,
            targets.box_cxcywh_N4,
            targets.keypoints_NK3,
            targets.image_index_N,
            tuple(ids),
        )
        return Made(batch, reading.images_read, tuple(reading.bad))

    def _draw(self, ref: SampleRef, reading: _Reading) -> tuple[str, ImageArray, Layout]:
        rng = sample_rng(self.seed, ref)
        open_epochs = self.epochs - self.augment.close_mosaic
        mosaic = rng.random() < self.augment.mosaic and ref.epoch < open_epochs
        sample_id, primary = reading.labelled(ref, rng)
        partners = [reading.labelled(partner, rng)[1] for partner in self.plan.partners(ref, rng, 3)] if mosaic else []
        return sample_id, *draw_training_image(primary, partners, self.augment, imgsz=self.imgsz, rng=rng)


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
            reduce = reduction_for(sample.width, sample.height, self._imgsz)
            try:
                image = decode_rgb(sample.image, where, reduce=reduce)
                _check_size(image, sample.width, sample.height, reduce, where)
            except DataError as error:
                self.bad.append(str(error))
                continue
            return sample.id, Labelled(image, sample.people, sample.width, sample.height)
        raise DataError(f"{self.bad[-1]}; {MAX_REPLACEMENTS - 1} others of its window tried in its place are bad too")


def _check_size(image: ImageArray, width: int, height: int, reduce: int, where: str) -> None:
    found_height, found_width = image.shape[:2]
    # Decoders round the sides of a reduced image up or down.
    if abs(found_width * reduce - width) >= reduce or abs(found_height * reduce - height) >= reduce:
        scale = f" at 1/{reduce} of its size" if reduce > 1 else ""
        raise DataError(
            f"{where}: decodes to {found_width}x{found_height}{scale}, its labels are for {width}x{height};"
            " rebuild the shards with 'raypose data build'"
        )
