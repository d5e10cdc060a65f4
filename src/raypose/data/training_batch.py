"""One batch of training: the plan's samples, read, decoded and augmented into given memory.

What a batch holds depends on (seed, step, lane) alone, never on who makes it or what was made before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import cv2
import numpy as np

from raypose.config.schema import AugmentConfig
from raypose.data.pixel_cache import PixelCache
from raypose.data.plan import Plan, SampleRef, sample_rng
from raypose.data.shard_set import ShardSet
from raypose.data.source_batch import Allocate, SourceBatch, gather
from raypose.errors import DataError
from raypose.structures import Batch, ImageArray, Sample
from raypose.vision.augment import Design, blended, covered, design_training_image, draw_design
from raypose.vision.canvas import Labelled, yet_to_decode
from raypose.vision.decode import decode_rgb, is_plain_jpeg, reduction_for
from raypose.vision.device_table import TILES, SourceSize, tabulate
from raypose.vision.targets import Layout, targets_of

_Each = Callable[..., Iterator[Any]]
"""`map`, or that of an executor."""
MAX_REPLACEMENTS = 16
"""Partners tried in place of an image that does not decode, before giving up."""

HandOver = Literal["pictures", "pixels", "files"]
"""What a batch brings: finished pictures; or, for a device to draw them, decoded sources; or JPEG files where a GPU can
decode them as they are, and pixels of the rest."""


@dataclass(frozen=True, slots=True)
class Made:
    """A batch and what reading it took."""

    batch: Batch | SourceBatch
    images_read: int
    bad: tuple[str, ...]
    """What is wrong with each image that had to be replaced."""

    @property
    def pixels(self) -> ImageArray:
        """What takes the memory of a batch: its images, or its sources."""
        return self.batch.image_B3HW if isinstance(self.batch, Batch) else self.batch.content

    def with_pixels(self, pixels: ImageArray) -> Made:
        """The same with its pixels, or none, in other memory."""
        if isinstance(self.batch, Batch):
            return replace(self, batch=replace(self.batch, image_B3HW=pixels))
        return replace(self, batch=replace(self.batch, content=pixels))


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
    hand_over: HandOver = "pictures"
    pixels: PixelCache | None = None

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """Shape of every batch's images: B, 3, H, W."""
        return self.plan.micro_batch, 3, self.imgsz, self.imgsz

    @property
    def usual_bytes(self) -> int:
        """What the pixels of a batch take: always, of pictures; at most, as a rule, of their sources."""
        pictures = int(np.prod(self.image_shape))
        return pictures if self.hand_over == "pictures" else TILES * pictures

    def make(self, number: int, allocate: Allocate, threads: ThreadPoolExecutor | None = None) -> Made:
        """The batch, its pixels in memory from `allocate`, which becomes part of it; `threads` share its images."""
        step, local_lane = divmod(number, len(self.lanes))
        refs = self.plan.references(self.start_step + step, self.lanes[local_lane])
        # Each image has its own, so that what is bad is told in the order of the batch, whoever finds it first.
        readings = [_Reading(self.shards, self.plan, self.imgsz, self.hand_over, self.pixels) for _ in refs]
        each: _Each = map if threads is None else threads.map
        if self.hand_over == "pictures":
            batch: Batch | SourceBatch = self._pictures(refs, readings, allocate, each)
        else:
            batch = self._sources(number, list(each(self._design, refs, readings)), allocate)
        return Made(
            batch,
            sum(reading.images_read for reading in readings),
            tuple(chain.from_iterable(reading.bad for reading in readings)),
        )

    def _pictures(
        self, refs: Sequence[SampleRef], readings: Sequence[_Reading], allocate: Allocate, each: _Each
    ) -> Batch:
        image_B3HW = allocate(self.usual_bytes).reshape(self.image_shape)

        def draw(planes_3HW: ImageArray, ref: SampleRef, reading: _Reading) -> tuple[str, tuple[Layout, ...]]:
            sample_id, design = self._design(ref, reading)
            cv2.split(draw_design(design, self.imgsz), list(planes_3HW))  # 3 times as fast as a transposing copy
            return sample_id, design.layouts

        ids, layouts = zip(*each(draw, image_B3HW, refs, readings), strict=True)
        return self._labelled(image_B3HW, ids, layouts)

    def _sources(self, number: int, designed: Sequence[tuple[str, Design]], allocate: Allocate) -> SourceBatch:
        ids, designs, contents, sizes = [], [], [], []
        for sample_id, design in designed:
            ids.append(sample_id)
            designs.append(design)
            for tile in design.canvas.tiles:
                content = tile.source.file if tile.source.file is not None else tile.source.image
                contents.append(content)
                sizes.append(_size_on_device(tile.source))
        sources, content = gather(contents, allocate)
        labels = self._labelled(np.empty((0, *self.image_shape[1:]), np.uint8), ids, [one.layouts for one in designs])
        return SourceBatch(number, labels, sources, tabulate(designs, sizes, self.imgsz), content)

    def _labelled(self, image_B3HW: ImageArray, ids: Sequence[str], layouts: Sequence[tuple[Layout, ...]]) -> Batch:
        """Several layouts of one image are of what was mixed into it."""
        targets = targets_of(list(chain.from_iterable(layouts)), self.imgsz, self.shards.skeleton.flip_index)
        image_of_layout = np.repeat(np.arange(len(layouts)), [len(of_image) for of_image in layouts])
        return Batch(
            image_B3HW,
            targets.class_N,
            targets.box_cxcywh_N4,
            targets.keypoints_NK3,
            image_of_layout[targets.image_index_N],
            tuple(ids),
        )

    def _design(self, ref: SampleRef, reading: _Reading) -> tuple[str, Design]:
        rng = sample_rng(self.seed, ref)
        is_open = ref.epoch < self.epochs - self.augment.close_mosaic
        sample_id, design = self._design_alone(ref, reading, rng, is_open)
        # Nothing is drawn for what is off, so that a recipe without it stays the same.
        if is_open and self.augment.mixup and rng.random() < self.augment.mixup:
            design = blended(design, self._design_other(ref, reading, rng), rng)
        if is_open and self.augment.cutmix and rng.random() < self.augment.cutmix:
            design = covered(design, self._design_other(ref, reading, rng), self.imgsz, rng)
        return sample_id, design

    def _design_other(self, ref: SampleRef, reading: _Reading, rng: np.random.Generator) -> Design:
        """Of another sample of the window, to be mixed in."""
        other = self.plan.partners(ref, rng, 1)[0]
        return self._design_alone(other, reading, rng, is_open=True)[1]

    def _design_alone(
        self, ref: SampleRef, reading: _Reading, rng: np.random.Generator, is_open: bool
    ) -> tuple[str, Design]:
        """The sample alone, or in a mosaic with others of its window."""
        mosaic = rng.random() < self.augment.mosaic and is_open
        sample_id, primary = reading.labelled(ref, rng)
        others = self.plan.partners(ref, rng, 3) if mosaic else ()
        partners = [reading.labelled(other, rng)[1] for other in others]
        return sample_id, design_training_image(primary, partners, self.augment, imgsz=self.imgsz, rng=rng)


def _size_on_device(source: Labelled) -> SourceSize:
    """A file is decoded there at its full size, whatever fraction of it the design counts with."""
    high, wide = source.image.shape[:2]
    return SourceSize(wide, high) if source.file is None else SourceSize(source.width, source.height)


class _Reading:
    """Reads and decodes the images that one picture is made of, and keeps count of those that do not decode."""

    def __init__(
        self, shards: ShardSet, plan: Plan, imgsz: int, hand_over: HandOver, pixels: PixelCache | None
    ) -> None:
        self._shards = shards
        self._plan = plan
        self._imgsz = imgsz
        self._pixels = pixels
        self._decodes_all = hand_over != "files"
        self.images_read = 0
        self.bad: list[str] = []

    def labelled(self, ref: SampleRef, rng: np.random.Generator) -> tuple[str, Labelled]:
        """The referenced sample's id and image, or those of the first of its partners that decodes."""
        for attempt in range(MAX_REPLACEMENTS):
            candidate = ref if attempt == 0 else self._plan.partners(ref, rng, 1)[0]
            sample = self._shards.sample(candidate.shard, candidate.index)
            self.images_read += 1
            if not self._decodes_all and is_plain_jpeg(sample.image, sample.width, sample.height):
                return sample.id, _undecoded(sample, self._imgsz)
            try:
                image = self._decoded(candidate, sample)
            except DataError as error:
                self.bad.append(str(error))
                continue
            return sample.id, Labelled(image, sample.people, sample.width, sample.height)
        raise DataError(f"{self.bad[-1]}; {MAX_REPLACEMENTS - 1} others of its window tried in its place are bad too")

    def _decoded(self, ref: SampleRef, sample: Sample) -> ImageArray:
        kept = self._pixels.get(ref.shard, ref.index) if self._pixels else None
        if kept is not None:
            return kept
        where = f"{self._shards.manifest.shards[ref.shard].name}, sample {sample.id!r}"
        reduce = reduction_for(sample.width, sample.height, self._imgsz)
        image = decode_rgb(sample.image, where, reduce=reduce)
        _check_size(image, sample.width, sample.height, reduce, where)
        if self._pixels:
            self._pixels.put(ref.shard, ref.index, image)
        return image


def _undecoded(sample: Sample, imgsz: int) -> Labelled:
    """As if decoded at a fraction of its size, so that its design is that of the CPU path."""
    reduce = reduction_for(sample.width, sample.height, imgsz)
    image = yet_to_decode(-(-sample.width // reduce), -(-sample.height // reduce))
    return Labelled(image, sample.people, sample.width, sample.height, sample.image)


def _check_size(image: ImageArray, width: int, height: int, reduce: int, where: str) -> None:
    found_height, found_width = image.shape[:2]
    # Decoders round the sides of a reduced image up or down.
    if abs(found_width * reduce - width) >= reduce or abs(found_height * reduce - height) >= reduce:
        scale = f" at 1/{reduce} of its size" if reduce > 1 else ""
        raise DataError(
            f"{where}: decodes to {found_width}x{found_height}{scale}, its labels are for {width}x{height};"
            " rebuild the shards with 'raypose data build'"
        )
