"""Shard sets as the source of others: several put together, or one parted in two."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from raypose.data.importers.source import LabelledSource, Progress, SourceImage
from raypose.data.shard_set import ShardSet
from raypose.errors import DataError
from raypose.structures import Sample


@dataclass(frozen=True, slots=True)
class _Record:
    """Where a sample lies now."""

    shard_set: int
    shard: int
    index: int


@dataclass(frozen=True, slots=True)
class _Reader:
    sets: tuple[ShardSet, ...]

    def __call__(self, image: SourceImage) -> Sample:
        record: _Record = image.label
        return replace(self.sets[record.shard_set].sample(record.shard, record.index), id=image.key)


def read_shard_sets(
    sets: Sequence[ShardSet], *, prefix: bool = False, progress: Progress | None = None
) -> LabelledSource:
    """The samples of all sets, one set after the other. Reads every one of them once, for its id.

    `prefix` puts the name of its set before each id, for sets that give the same ids to different images. Raises
    DataError where sets differ in skeleton or classes.
    """
    first, *others = sets
    for other in others:
        _require_same_kind(first, other)
    before = [f"{name}/" for name in _names(sets)] if prefix else [""] * len(sets)
    images: list[SourceImage] = []
    read_bytes = 0
    for number, shard_set in enumerate(sets):
        for place, sample in enumerate(shard_set):
            shard, index = shard_set.locate(place)
            label = _Record(number, shard, index)
            version = shard_set.manifest.shards[shard].sha256
            images.append(SourceImage(before[number] + sample.id, len(sample.image), label, version))
            read_bytes += len(sample.image)
            if progress is not None:
                progress(len(images), read_bytes)
    return LabelledSource(first.skeleton, first.class_names, images, _Reader(tuple(sets)))


def part(source: LabelledSource, share: float, *, by_folder: bool = False) -> tuple[LabelledSource, LabelledSource]:
    """What is left of a source, and about `share` of its images, that ids choose by their SHA-256.

    So an image is on the same side however many others there are, today and in the next version of the data. With
    `by_folder` the folder of the id decides, which keeps together what belongs together, as the frames of a video.
    Raises DataError where a side would be empty.
    """
    sides: tuple[list[SourceImage], list[SourceImage]] = [], []
    for image in source.images:
        key = str(PurePosixPath(image.key).parent) if by_folder else image.key
        sides[_fraction(key) < share].append(image)
    if not all(sides):
        folders = len({PurePosixPath(image.key).parent for image in source.images})
        among = f"{folders:,} folders" if by_folder else f"{len(source.images):,} images"
        raise DataError(f"a share of {share:g} of {among} leaves one of the two sets empty; choose another share")
    return replace(source, images=sides[0]), replace(source, images=sides[1])


def _fraction(key: str) -> float:
    """From 0 to 1, evenly over all keys."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64


def _require_same_kind(first: ShardSet, other: ShardSet) -> None:
    difference = first.skeleton.difference(other.skeleton)
    if not difference and first.class_names != other.class_names:
        difference = f"classes {', '.join(other.class_names)} instead of {', '.join(first.class_names)}"
    if difference:
        raise DataError(f"{other.url}: {difference} as in {first.url}; only sets of one skeleton can be put together")


def _names(sets: Sequence[ShardSet]) -> list[str]:
    """The last words of their places; where these are equal, as of a/train and b/train, more of each."""
    paths = [PurePosixPath(one.url.partition("://")[2].partition("?")[0] or one.url).parts for one in sets]
    for count in range(1, max(map(len, paths)) + 1):
        names = ["/".join(part for part in path[-count:] if part != "/") for path in paths]
        if len(set(names)) == len(names):
            return names
    raise DataError(f"{sets[0].url}: named twice")
