"""Validation: every worker predicts its share of a shard set, the leader measures the whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from raypose.data.shard_set import ShardSet
from raypose.engine.world import World
from raypose.evaluate import BY_COCO, Evaluation, Judge
from raypose.inference import Predictor
from raypose.structures import ImageResult, Sample
from raypose.vision.decode import decode_rgb


def validate(
    predictor: Predictor,
    shards: ShardSet,
    world: World,
    *,
    batch: int,
    judge: Judge = BY_COCO,
    earlier: Mapping[str, float] = MappingProxyType({}),
) -> Evaluation | None:
    """Measure `predictor` on all of `shards`; the result exists on the leader only.

    `earlier` are the metrics at the best checkpoint so far, which validators of `judge` may compare with.
    """
    parts = world.gather(list(predict_share(predictor, shards, world, batch=batch)))
    if parts is None:
        return None
    results = list(itertools.chain.from_iterable(parts))
    return judge.measure(results, shards.skeleton, shards.class_names, earlier=earlier)


def predict_share(predictor: Predictor, shards: ShardSet, world: World, *, batch: int) -> Iterator[ImageResult]:
    """What is labelled and what is predicted in each image of this worker's share."""
    places = iter(world.share(len(shards)))
    while chunk := list(itertools.islice(places, batch)):
        samples = [shards.sample(*shards.locate(place)) for place in chunk]
        yield from predict_samples(predictor, samples)


def predict_samples(predictor: Predictor, samples: list[Sample]) -> Iterator[ImageResult]:
    """Predict labelled samples and pair them with their labels."""
    images = [decode_rgb(sample.image, sample.id) for sample in samples]
    for sample, poses in zip(samples, predictor.predict(images), strict=True):
        yield ImageResult(sample.id, sample.width, sample.height, sample.people, poses)
