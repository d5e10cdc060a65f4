"""What a shard set contains, counted sample by sample in memory that does not grow with the set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypose.data.manifest import is_labelled
from raypose.data.shard_set import ShardSet
from raypose.data.spread import Spread
from raypose.errors import ShardCorruptError
from raypose.structures import BoolArray, People, Sample

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
SIZE_BINS_PER_OCTAVE = 4
IMAGE_SIDE_OCTAVES = range(4, 15)
"""Image sizes are counted from 16 to 16,384 pixels; what lies beyond counts in the outer cells."""

PLACE_CELLS = 36
PLACE_MARGIN = 0.25
"""Keypoints are counted in a grid that reaches a quarter of the box's side beyond each of its edges."""

_BATCH = 1024


@dataclass(frozen=True, slots=True)
class KeypointCounts:
    """How often one keypoint is labelled, over everyone who is no crowd."""

    name: str
    unlabelled: int
    hidden: int
    visible: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts between edges, of which there is one more; both empty where nothing was counted."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Stats:
    """Figures of a shard set. `annotations` are all entries; the four kinds below overlap only in `ignored`.

    `labelled_people` have a labelled keypoint and are not ignored; `empty_people` have none and are no crowd;
    `ignored` counts crowds, empty people and whatever else is marked. Box sizes are sqrt(width * height) of the
    labelled people in pixels, and like image sizes given at QUANTILES, within 0.3 %; empty without any.
    `image_sizes_HW` counts images by height and width in quarter octaves; `places_KHW` counts labelled keypoints
    relative to their box, row by row from above its top edge.
    """

    images: int
    images_without_people: int
    annotations: int
    labelled_people: int
    ignored: int
    crowds: int
    empty_people: int
    people_per_image: dict[int, int]
    people_per_class: dict[str, int]
    keypoints: tuple[KeypointCounts, ...]
    box_size_px: dict[float, float]
    image_width_px: dict[float, float]
    image_height_px: dict[float, float]
    shards: int
    size_bytes: int
    box_sizes: Histogram = field(metadata={"json": False})
    image_sizes_HW: NDArray[np.int64] = field(metadata={"json": False})
    places_KHW: NDArray[np.int64] = field(metadata={"json": False})

    def to_dict(self) -> dict[str, Any]:
        """Plain builtins for JSON, without what only pictures show."""
        figures = {item.name: getattr(self, item.name) for item in fields(self) if item.metadata.get("json", True)}
        names = [item.name for item in fields(KeypointCounts)]
        figures["keypoints"] = [{name: getattr(counts, name) for name in names} for counts in self.keypoints]
        return figures


def collect_stats(shard_set: ShardSet, progress: Callable[[int], None] | None = None) -> Stats:
    """Read every record once; images are not decoded. `progress` hears the number of images read so far."""
    classes = len(shard_set.class_names)
    totals = _Totals(shard_set.skeleton.keypoints, classes)
    labels = _labels(shard_set, classes)
    while batch := list(islice(labels, _BATCH)):
        totals.add(batch)
        if progress:
            progress(totals.images)
    return totals.stats(shard_set)


@dataclass(frozen=True, slots=True)
class _Label:
    """A sample without its image's bytes."""

    width: int
    height: int
    people: People


class _Totals:
    """Sums over all images so far. What is per person is counted for a batch of images at a time."""

    def __init__(self, keypoints: int, classes: int) -> None:
        cells = (len(IMAGE_SIDE_OCTAVES) - 1) * SIZE_BINS_PER_OCTAVE
        self.images = self.people = self.labelled = self.ignored = self.crowds = self.empty = 0
        self.per_image: dict[int, int] = {}
        self.per_class = np.zeros(classes, np.int64)
        self.visibility_3K = np.zeros((3, keypoints), np.int64)
        self.box_size, self.width, self.height = Spread(), Spread(), Spread()
        self.image_sizes_HW = np.zeros((cells, cells), np.int64)
        self.places_KHW = np.zeros((keypoints, PLACE_CELLS, PLACE_CELLS), np.int64)

    def add(self, labels: list[_Label]) -> None:
        people = _joined([label.people for label in labels])
        labelled_N = is_labelled(people)
        self.images += len(labels)
        self.people += len(people)
        self.labelled += int(labelled_N.sum())
        self.ignored += int(people.ignore_N.sum())
        self.crowds += int(people.crowd_N.sum())
        self.empty += int((~(people.keypoints_NK3[..., 2] > 0).any(axis=1) & ~people.crowd_N).sum())
        for label in labels:
            self.per_image[len(label.people)] = self.per_image.get(len(label.people), 0) + 1
        self.per_class += np.bincount(people.class_N[labelled_N], minlength=len(self.per_class))
        visibility_NK = people.keypoints_NK3[~people.crowd_N, :, 2]
        self.visibility_3K += np.stack([(visibility_NK == code).sum(axis=0) for code in (0, 1, 2)])
        self._add_image_sizes(np.array([(label.height, label.width) for label in labels], np.float64))
        self._add_places(people.select(labelled_N))

    def _add_image_sizes(self, size_B2: NDArray[np.float64]) -> None:
        self.height.add(size_B2[:, 0])
        self.width.add(size_B2[:, 1])
        cells_B2 = (np.log2(size_B2) - IMAGE_SIDE_OCTAVES[0]) * SIZE_BINS_PER_OCTAVE
        rows_B, columns_B = np.clip(cells_B2, 0, len(self.image_sizes_HW) - 1).astype(int).T
        np.add.at(self.image_sizes_HW, (rows_B, columns_B), 1)

    def _add_places(self, people: People) -> None:
        corner_N2, side_N2 = people.box_xyxy_N4[:, :2], people.box_xyxy_N4[:, 2:] - people.box_xyxy_N4[:, :2]
        self.box_size.add(np.sqrt(side_N2.prod(axis=1)))
        relative_NK2 = (people.keypoints_NK3[..., :2] - corner_N2[:, None]) / side_N2[:, None]
        cells_NK2 = np.floor((relative_NK2 + PLACE_MARGIN) / (1 + 2 * PLACE_MARGIN) * PLACE_CELLS)
        is_inside_NK = ((cells_NK2 >= 0) & (cells_NK2 < PLACE_CELLS)).all(axis=2)
        person_M, keypoint_M = np.nonzero(is_inside_NK & (people.keypoints_NK3[..., 2] > 0))
        column_M, row_M = cells_NK2[person_M, keypoint_M].astype(int).T
        np.add.at(self.places_KHW, (keypoint_M, row_M, column_M), 1)

    def stats(self, shard_set: ShardSet) -> Stats:
        names, manifest = shard_set.skeleton.names, shard_set.manifest
        edges, counts = self.box_size.histogram(SIZE_BINS_PER_OCTAVE)
        return Stats(
            images=self.images,
            images_without_people=self.per_image.get(0, 0),
            annotations=self.people,
            labelled_people=self.labelled,
            ignored=self.ignored,
            crowds=self.crowds,
            empty_people=self.empty,
            people_per_image=dict(sorted(self.per_image.items())),
            people_per_class=dict(zip(shard_set.class_names, self.per_class.tolist(), strict=True)),
            keypoints=tuple(
                KeypointCounts(name, *column) for name, column in zip(names, self.visibility_3K.T.tolist(), strict=True)
            ),
            box_size_px=_rounded(self.box_size),
            image_width_px=_rounded(self.width),
            image_height_px=_rounded(self.height),
            shards=len(manifest.shards),
            size_bytes=sum(shard.size_bytes for shard in manifest.shards),
            box_sizes=Histogram(tuple(edges), tuple(counts)),
            image_sizes_HW=self.image_sizes_HW,
            places_KHW=self.places_KHW,
        )


def _labels(samples: Iterable[Sample], classes: int) -> Iterator[_Label]:
    for sample in samples:
        people = sample.people
        good_N = _is_countable(people, classes)
        if not good_N.all():
            raise ShardCorruptError(
                f"{sample.id}: person {int(np.argmin(good_N))}: a class outside 0..{classes - 1}, an empty box, or"
                " numbers that are not finite; rebuild with 'raypose data build'"
            )
        yield _Label(sample.width, sample.height, people)


def _is_countable(people: People, classes: int) -> BoolArray:
    box_N4, class_N = people.box_xyxy_N4, people.class_N
    is_finite_N = np.isfinite(box_N4).all(axis=1) & np.isfinite(people.keypoints_NK3).all(axis=(1, 2))
    return np.asarray(
        is_finite_N & (box_N4[:, 2:] > box_N4[:, :2]).all(axis=1) & (class_N >= 0) & (class_N < classes), np.bool_
    )


def _joined(parts: list[People]) -> People:
    def column(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    return People(*(column(item.name) for item in fields(People)))


def _rounded(spread: Spread) -> dict[float, float]:
    return {share: round(value, 2) for share, value in spread.quantiles(QUANTILES).items()}
