"""Validation: every worker predicts its share of a shard set, the leader measures the whole.

The numbers are the same, to the last bit, for any number of workers and, on a CPU, of cores. The set is cut into chunks
by position, never by who predicts them; a chunk is predicted together, by one thread; only whole chunks are shared out.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from types import MappingProxyType

import torch

from raypose.data.reader import THREADS, read_images
from raypose.data.shard_set import ShardSet
from raypose.data.threads import map_in_threads
from raypose.engine.world import World
from raypose.evaluate import BY_COCO, Evaluation, Judge
from raypose.inference import Fitted, Predictor, lanes_of
from raypose.structures import ImageResult, Poses, Sample

_MAX_DECODING_THREADS = 8


def validate(
    predictor: Predictor,
    shards: ShardSet,
    world: World,
    *,
    batch: int,
    judge: Judge = BY_COCO,
    earlier: Mapping[str, float] = MappingProxyType({}),
    places: Sequence[range] | None = None,
) -> Evaluation | None:
    """Measure `predictor` on all of `shards`, or on the images at `places`; the result exists on the leader only.

    `batch` is the size of a chunk of all images. `earlier` are the metrics at the best checkpoint so far, which
    validators of `judge` may compare with.
    """
    chunks = chunks_of(len(shards), batch) if places is None else places
    mine = [chunks[number] for number in world.share(len(chunks))]
    threads = decoding_threads(predictor, world.local_size)
    with _no_benchmarks():
        predicted = list(predict_chunks(predictor, shards, mine, threads=threads))
    parts = world.gather(predicted)
    if parts is None:
        return None
    results = list(itertools.chain.from_iterable(parts))
    return judge.measure(results, shards.skeleton, shards.class_names, earlier=earlier)


@contextmanager
def _no_benchmarks() -> Iterator[None]:
    """Without what training may have turned on: cuDNN would measure its algorithms anew for each shape of images."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def chunks_of(images: int, batch: int) -> list[range]:
    """The places that are predicted together, in order; the last chunk may be smaller."""
    return [range(start, min(start + batch, images)) for start in range(0, images, batch)]


def decoding_threads(predictor: Predictor, processes: int) -> int:
    """How many threads decode images ahead where so many processes of this node do: on a CPU few, it has other work."""
    if predictor.device_type == "cpu":
        return THREADS
    return max(THREADS, min(_MAX_DECODING_THREADS, (os.cpu_count() or 1) // processes))


def predict_chunks(
    predictor: Predictor, shards: ShardSet, chunks: Sequence[range], *, threads: int = THREADS
) -> Generator[ImageResult]:
    """What is labelled and what is predicted in each image of these chunks, in order.

    While `threads` decode images, as many chunks are predicted at a time as keep the device busy.
    """
    with lanes_of(predictor) as lanes, closing(_fitted(predictor, shards, chunks, threads)) as fitted:

        def predict(chunk: list[tuple[ImageResult, Fitted]]) -> list[ImageResult]:
            with lanes.one() as lane:
                found = lane.predict_fitted([image for _, image in chunk])
            return [replace(labelled, poses=poses) for (labelled, _), poses in zip(chunk, found, strict=True)]

        # One chunk more than there are lanes, so that none waits for its images.
        ahead = predictor.lanes + 1
        with closing(map_in_threads(predict, fitted, threads=predictor.lanes, ahead=ahead)) as predicted:
            for chunk in predicted:
                yield from chunk


def _fitted(
    predictor: Predictor, shards: ShardSet, chunks: Sequence[range], threads: int
) -> Generator[list[tuple[ImageResult, Fitted]]]:
    """For each chunk, what is labelled in its images, and the images as the model takes them."""
    places = list(itertools.chain.from_iterable(chunks))
    with closing(read_images(shards, places, threads=threads)) as images:
        for chunk in chunks:
            yield [
                (_labelled(sample), predictor.fit(image, sample.id))
                for sample, image in itertools.islice(images, len(chunk))
            ]


def _labelled(sample: Sample) -> ImageResult:
    nobody = Poses.empty(sample.people.keypoints_NK3.shape[1])
    return ImageResult(sample.id, sample.width, sample.height, sample.people, nobody)
