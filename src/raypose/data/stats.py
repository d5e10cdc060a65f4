"""What a shard set contains, counted sample by sample."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from raypose.data.manifest import is_labelled
from raypose.data.shard_set import ShardSet
from raypose.structures import People

BOX_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, slots=True)
class KeypointCounts:
    """How often one keypoint is labelled, over everyone who is no crowd."""

    name: str
    unlabelled: int
    hidden: int
    visible: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of a shard set. `annotations` are all entries; the four kinds below overlap only in `ignored`.

    `labelled_people` have a labelled keypoint and are not ignored; `empty_people` have none and are no crowd;
    `ignored` counts crowds, empty people and whatever else is marked. Box sizes are sqrt(width * height) of the
    labelled people in pixels, at BOX_QUANTILES; empty without labelled people.
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
    shards: int
    size_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain builtins for JSON."""
        return asdict(self)


def collect_stats(shard_set: ShardSet) -> Stats:
    """Read every record once; images are not decoded."""
    everyone = [sample.people for sample in shard_set]
    keypoints = shard_set.skeleton.keypoints
    people = _joined(everyone, keypoints)
    labelled_N = is_labelled(people)
    empty_N = ~(people.keypoints_NK3[..., 2] > 0).any(axis=1) & ~people.crowd_N
    per_image = np.bincount([len(here) for here in everyone] or [0])
    per_class = np.bincount(people.class_N[labelled_N], minlength=len(shard_set.class_names))
    return Stats(
        images=len(everyone),
        images_without_people=sum(len(here) == 0 for here in everyone),
        annotations=len(people),
        labelled_people=int(labelled_N.sum()),
        ignored=int(people.ignore_N.sum()),
        crowds=int(people.crowd_N.sum()),
        empty_people=int(empty_N.sum()),
        people_per_image={count: int(images) for count, images in enumerate(per_image) if images and everyone},
        people_per_class={name: int(per_class[index]) for index, name in enumerate(shard_set.class_names)},
        keypoints=_keypoint_counts(people, shard_set.skeleton.names),
        box_size_px=_box_sizes(people.select(labelled_N)),
        shards=len(shard_set.manifest.shards),
        size_bytes=sum(shard.size_bytes for shard in shard_set.manifest.shards),
    )


def _joined(everyone: list[People], keypoints: int) -> People:
    parts = [*everyone, People.empty(keypoints)]
    return People(
        np.concatenate([part.box_xyxy_N4 for part in parts]),
        np.concatenate([part.keypoints_NK3 for part in parts]),
        np.concatenate([part.class_N for part in parts]),
        np.concatenate([part.area_N for part in parts]),
        np.concatenate([part.ignore_N for part in parts]),
        np.concatenate([part.crowd_N for part in parts]),
    )


def _keypoint_counts(people: People, names: tuple[str, ...]) -> tuple[KeypointCounts, ...]:
    visibility_NK = people.keypoints_NK3[~people.crowd_N, :, 2]
    by_code = [(visibility_NK == code).sum(axis=0) for code in (0, 1, 2)]
    return tuple(KeypointCounts(name, *(int(counts[index]) for counts in by_code)) for index, name in enumerate(names))


def _box_sizes(people: People) -> dict[float, float]:
    if not len(people):
        return {}
    sides_N2 = people.box_xyxy_N4[:, 2:] - people.box_xyxy_N4[:, :2]
    sizes = np.quantile(np.sqrt(sides_N2.prod(axis=1)), BOX_QUANTILES)
    return {quantile: round(float(size), 2) for quantile, size in zip(BOX_QUANTILES, sizes, strict=True)}
