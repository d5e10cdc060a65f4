"""The first pass over a set: what rules need to know of all samples before they judge one."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raypose.data.lint.hashing import Hashes, hash_of, thumbnail
from raypose.data.manifest import is_labelled
from raypose.data.shard_set import ShardSet
from raypose.data.spread import Spread
from raypose.structures import FloatArray, People

SAMPLED_PEOPLE = 20_000
"""Proportions and sides are learnt from at most so many people, each as likely as any other to be among them."""

_BLOCK = 512

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Survey:
    """Hashes of all images (none where nobody asked for them), and figures of the labelled people."""

    hash_N: Hashes
    keypoints_MK3: FloatArray
    per_class: NDArray[np.int64]
    median_size_px: float


def survey(shard_set: ShardSet, *, hashes: bool, progress: Progress) -> Survey:
    """Read every record once, and decode every image, small, where `hashes` are wanted."""
    chosen = _Reservoir(SAMPLED_PEOPLE)
    sizes, per_class = Spread(), np.zeros(len(shard_set.class_names), np.int64)
    hash_N = np.zeros(len(shard_set) if hashes else 0, np.uint64)
    for place, (people, image_hash) in enumerate(_look_at_all(shard_set, hashes)):
        if hashes:
            hash_N[place] = image_hash
        labelled = people.select(is_labelled(people))
        for keypoints_K3 in labelled.keypoints_NK3:
            chosen.add(keypoints_K3)
        sizes.add(np.sqrt((labelled.box_xyxy_N4[:, 2:] - labelled.box_xyxy_N4[:, :2]).prod(axis=1)))
        per_class += np.bincount(labelled.class_N, minlength=len(per_class))
        progress(1)
    shape = (-1, shard_set.skeleton.keypoints, 3)
    keypoints_MK3 = np.array(chosen.kept, np.float32).reshape(shape)
    return Survey(hash_N, keypoints_MK3, per_class, sizes.quantiles([0.5]).get(0.5, 0.0))


class _Reservoir:
    """A fixed number of all values that come by, every one as likely to be kept (Vitter's algorithm R)."""

    def __init__(self, size: int) -> None:
        self.kept: list[FloatArray] = []
        self._size, self._seen, self._random = size, 0, random.Random(0)

    def add(self, value: FloatArray) -> None:
        self._seen += 1
        if len(self.kept) < self._size:
            self.kept.append(value)
        elif (place := self._random.randrange(self._seen)) < self._size:
            self.kept[place] = value


def _look_at_all(shard_set: ShardSet, hashes: bool) -> Iterator[tuple[People, int]]:
    """In order. Threads decode ahead: image codecs release the interpreter's lock."""

    def look(place: int) -> tuple[People, int]:
        sample = shard_set.sample(*shard_set.locate(place))
        return sample.people, hash_of(thumbnail(sample)) if hashes else 0

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="lint") as pool:
        for begin in range(0, len(shard_set), _BLOCK):
            yield from pool.map(look, range(begin, min(begin + _BLOCK, len(shard_set))))
