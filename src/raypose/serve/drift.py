"""How far what requests show, and what the model finds there, is from the data that the model was validated on.

The measure is the population stability index, the sum over bins of (p - q) ln(p / q) with the shares p and q of two
populations: below .10 they are taken for the same one, above .25 for different ones (N. Siddiqi, Credit Risk
Scorecards, 2006, ch. 6).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raypose.config.serve_schema import DriftConfig
from raypose.data.reader import read_images
from raypose.data.shard_set import ShardSet
from raypose.errors import DataError
from raypose.structures import ImageArray, Poses

SCORE_EDGES = tuple(step / 20 for step in range(1, 20))
MEGAPIXEL_EDGES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0, 50.0)
"""A bin has what is above the edge before it, up to its own; the last one, what is above all of them."""
_LEAST_SHARE = 0.001
_SHARDS = 4
"""Of the reference set, that are read where they hold enough: each replica may have to fetch them."""


@dataclass(frozen=True, slots=True)
class Look:
    """What counts of one image: the bins of its people's scores, 0 for nobody, and that of its size."""

    scores: tuple[int, ...]
    megapixels: int

    @classmethod
    def of(cls, pixels: int, poses: Poses) -> Look:
        scores = poses.score_N.tolist() or [0.0]
        return cls(tuple(_bin(score, SCORE_EDGES) for score in scores), _bin(pixels / 1e6, MEGAPIXEL_EDGES))


class Population:
    """How many scores and images fall into each bin."""

    def __init__(self, looks: Iterable[Look] = ()) -> None:
        self.scores = np.zeros(len(SCORE_EDGES) + 1)
        self.megapixels = np.zeros(len(MEGAPIXEL_EDGES) + 1)
        for look in looks:
            self.add(look)

    def add(self, look: Look, times: int = 1) -> None:
        """Count an image; -1 times takes it out again."""
        for score in look.scores:
            self.scores[score] += times
        self.megapixels[look.megapixels] += times


class Drift:
    """The newest images of requests against a reference, both as one version of a model sees them."""

    def __init__(self, reference: Population, window: int) -> None:
        self._reference = reference
        self._window = window
        self._looks: deque[Look] = deque()
        self._now = Population()

    def observe(self, look: Look) -> None:
        """An image was answered."""
        if len(self._looks) == self._window:
            self._now.add(self._looks.popleft(), -1)
        self._looks.append(look)
        self._now.add(look)

    def indices(self) -> dict[str, float] | None:
        """The index of `scores` and of `megapixels`; None until there are as many images as are compared."""
        if len(self._looks) < self._window:
            return None
        return {
            "scores": stability_index(self._now.scores, self._reference.scores),
            "megapixels": stability_index(self._now.megapixels, self._reference.megapixels),
        }


def stability_index(found_B: NDArray[np.float64], expected_B: NDArray[np.float64]) -> float:
    """Of the counts in each bin, whose shares are taken for at least _LEAST_SHARE: no bin is impossible."""
    p_B, q_B = (np.maximum(counts_B / counts_B.sum(), _LEAST_SHARE) for counts_B in (found_B, expected_B))
    return float(((p_B - q_B) * np.log(p_B / q_B)).sum())


def reference_of(find: Callable[[ImageArray], Poses], config: DriftConfig) -> Population:
    """What a model finds in the set of `config`. Raises DataError or StorageError where that cannot be read."""
    shards = ShardSet.open(config.data)
    places = places_of(shards.shard_sizes, config.images)
    if not places:
        raise DataError(f"{config.data}: drift.data holds no images; name the set that the model was validated on")
    with closing(read_images(shards, places)) as images:
        return Population(Look.of(image_HW3.shape[0] * image_HW3.shape[1], find(image_HW3)) for _, image_HW3 in images)


def places_of(samples_S: Sequence[int], images: int) -> list[int]:
    """At most so many places in a set whose shards have so many samples, evenly spread over as few shards as may be."""
    images = min(images, sum(samples_S))
    if images == 0:
        return []
    chosen = _spread(len(samples_S), max(_SHARDS, math.ceil(images * len(samples_S) / sum(samples_S))))
    share = math.ceil(images / len(chosen))
    starts = [sum(samples_S[:shard]) for shard in chosen]
    places = [
        start + index for start, shard in zip(starts, chosen, strict=True) for index in _spread(samples_S[shard], share)
    ]
    return places[:images]


def _spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` of the numbers below `count`, evenly spread."""
    wanted = min(count, wanted)
    return [number * count // wanted for number in range(wanted)]


def _bin(value: float, edges: Sequence[float]) -> int:
    return bisect_left(edges, value)
