"""How well a model does on images that it was trained on: beside validation, this tells over- from underfitting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from raypose.engine.setup import Parts
from raypose.engine.validate import chunks_of, validate
from raypose.engine.world import World
from raypose.errors import DataError
from raypose.inference import Predictor
from raypose.telemetry import Notice, Reporter

_SHARDS = 4
"""Shards that the images come from. Each may have to be fetched, so a few must do."""


def measure_training_images(parts: Parts, predictor: Predictor, report: Reporter) -> Mapping[str, float] | None:
    """Metrics of up to `val.training_images` training images, without augmentation; None where none are wanted.

    They are always the same images of a set. This worker looks at them alone. A damaged image, which training may
    have passed over, costs the comparison but not the run.
    """
    val = parts.config.val
    places = sample_places(parts.train_set.shard_sizes, images=val.training_images, batch=val.batch)
    if not places:
        return None
    judge = replace(parts.judge, validators=())
    alone = World(device=parts.world.device, local_size=parts.world.local_size)
    try:
        evaluation = validate(predictor, parts.train_set, alone, batch=val.batch, judge=judge, places=places)
    except DataError as error:
        report(Notice(f"training images are not compared with validation images: {error}"))
        return None
    assert evaluation is not None  # alone is its own leader
    return evaluation.metrics


def sample_places(shard_sizes: Sequence[int], *, images: int, batch: int) -> list[range]:
    """Chunks of places of up to `images` images: the first ones of a few shards, evenly spread over the set."""
    count = min(_SHARDS, len(shard_sizes))
    if not images or not count:
        return []
    each = -(-images // count)
    chunks: list[range] = []
    for number in range(count):
        shard = number * len(shard_sizes) // count
        start, size = sum(shard_sizes[:shard]), min(each, shard_sizes[shard], images - sum(map(len, chunks)))
        chunks += [range(start + chunk.start, start + chunk.stop) for chunk in chunks_of(size, batch)]
    return chunks
