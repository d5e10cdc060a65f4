"""A sweep file to begin with, from what a data set looks like: image size, batch and sigmas, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from raypose.config.schema import STRIDE
from raypose.data.shard_set import ShardSet
from raypose.data.stats import Stats, collect_stats
from raypose.errors import DataError
from raypose.structures import COCO_PERSON, Skeleton

SMALL_PERSON_PX = 32
"""Four cells of the finest grid of the model: of less, keypoints are hardly told apart."""
_LARGEST_PX = 1280
_BATCHES, _LEAST_STEPS = (8, 16, 32, 64, 128), 50


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Settings, and for each a line that says why."""

    imgsz: int
    batch: int
    sigmas: tuple[float, ...] | None
    """None where the data set states its own."""
    reasons: dict[str, str]


def suggest(stats: Stats, skeleton: Skeleton) -> Suggestion:
    """Raises DataError for a set without labelled people."""
    if not stats.labelled_people:
        raise DataError(f"the set has {stats.images} images and no labelled person; there is nothing to suggest from")
    imgsz, batch = image_size(stats), batch_size(stats.images)
    side, small = _long_side(stats), stats.box_size_px[0.05]
    shown = small * min(1.0, imgsz / side)
    reasons = {
        "train.imgsz": f"images are {side:.0f} px long, nineteen of twenty people {small:.0f} px or more: at {imgsz} px"
        f" they are {shown:.0f} px or more, {SMALL_PERSON_PX} px are wanted",
        "train.batch": f"{stats.images} images are {math.ceil(stats.images / batch)} steps an epoch",
    }
    if skeleton.sigmas is not None:
        return Suggestion(imgsz, batch, None, reasons)
    sigmas, same = sigmas_by_name(skeleton.names)
    reasons["val.sigmas"] = (
        f"the set states none: COCO's for {same} of {skeleton.keypoints} keypoints of the same name, the median of"
        " COCO's for the others; 'raypose data sigmas' measures them where several people have labelled the same images"
    )
    return Suggestion(imgsz, batch, sigmas, reasons)


def image_size(stats: Stats) -> int:
    """The smallest at which nineteen of twenty people are large enough, but no larger than most images are."""
    side = _long_side(stats)
    wanted = side * SMALL_PERSON_PX / stats.box_size_px[0.05]
    return min(_multiple(wanted), max(STRIDE, _multiple(side)), _LARGEST_PX)


def batch_size(images: int) -> int:
    """The largest that leaves enough steps in an epoch."""
    fitting = [batch for batch in _BATCHES if images >= batch * _LEAST_STEPS]
    return fitting[-1] if fitting else _BATCHES[0]


def sigmas_by_name(names: Sequence[str]) -> tuple[tuple[float, ...], int]:
    """Sigmas of COCO for keypoints of the same name, its median for all others; and how many names are the same."""
    assert COCO_PERSON.sigmas is not None
    known = dict(zip(COCO_PERSON.names, COCO_PERSON.sigmas, strict=True))
    usual = sorted(COCO_PERSON.sigmas)[len(COCO_PERSON.sigmas) // 2]
    found = [known.get(name.lower().replace(" ", "_").replace("-", "_")) for name in names]
    return tuple(usual if one is None else one for one in found), sum(one is not None for one in found)


def suggested_file(data: str) -> str:
    """The text of a sweep file for the shard set at this path or URL."""
    shard_set = ShardSet.open(data)
    suggestion = suggest(collect_stats(shard_set), shard_set.skeleton)
    overrides = {"data.train": data, "train.batch": suggestion.batch}
    if suggestion.sigmas is not None:
        overrides["val.sigmas"] = list(suggestion.sigmas)
    smaller = _multiple(suggestion.imgsz / 1.5)
    sizes = sorted({smaller, suggestion.imgsz})
    if len(sizes) == 1:
        overrides["train.imgsz"] = suggestion.imgsz
    space = {
        "train.optimizer": {"choice": ["AdamW", "SGD"]},
        "train.lr0": {"loguniform": [0.0005, 0.02]},
        "train.pose": {"choice": [12.0, 24.0, 36.0]},
        "augment.mosaic": {"choice": [0.0, 0.5, 1.0]},
        **({"train.imgsz": {"choice": sizes}} if len(sizes) > 1 else {}),
    }
    sweep = {
        "name": "first-sweep",
        "base": "base.yaml",
        "overrides": overrides,
        "space": space,
        "scheduler": {"use": "asha", "min_epochs": 3},
        "budget": {"trials": 24},
    }
    reasons = "".join(f"# {key}: {reason}.\n" for key, reason in suggestion.reasons.items())
    return (
        f"# Suggested by the statistics of {data}. base is your own run file; see docs/tuning.md.\n{reasons}"
        + yaml.safe_dump(sweep, sort_keys=False, default_flow_style=None, width=110)
    )


def _long_side(stats: Stats) -> float:
    return max(stats.image_width_px[0.5], stats.image_height_px[0.5])


def _multiple(side: float) -> int:
    return max(1, math.ceil(side / STRIDE)) * STRIDE
