"""Where one shard ends and the next begins: decided from the listing alone, before a single image is read."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass

from raypose.data.importers.source import LabelledSource, SourceImage

SHARD_BYTES = 64 << 20
RECORD_BYTES = 1024
"""What a record is taken to have besides its image: people, id, and its row of the table."""

_BUILD_VERSION = 1
"""Of the rules by which a source becomes bytes; with another one, nothing of an unfinished build is reused."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to make: its number, counted from 0, and its images in order."""

    number: int
    images: tuple[SourceImage, ...]
    finished: str | None = None
    """Name of the shard if an earlier attempt has recorded it."""

    @property
    def size_bytes(self) -> int:
        """Of the images, as listed."""
        return sum(image.size_bytes for image in self.images)


def cut_into_shards(images: Sequence[SourceImage], shard_bytes: int) -> list[ShardTask]:
    """Runs of images; a shard is full once its images and RECORD_BYTES for each of them reach `shard_bytes`."""
    tasks: list[ShardTask] = []
    first = filled_bytes = 0
    for place, image in enumerate(images, start=1):
        filled_bytes += image.size_bytes + RECORD_BYTES
        if filled_bytes >= shard_bytes or place == len(images):
            tasks.append(ShardTask(len(tasks), tuple(images[first:place])))
            first, filled_bytes = place, 0
    return tasks


def digest_of(source: LabelledSource, shard_bytes: int) -> str:
    """Tells a build from every other: equal for equal images, versions of images, labels and settings."""
    settings = (_BUILD_VERSION, shard_bytes, source.skeleton.to_dict(), source.class_names, source.read)
    digest = hashlib.sha256(pickle.dumps(settings, protocol=5))
    for image in source.images:
        digest.update(pickle.dumps(image, protocol=5))
    return digest.hexdigest()
