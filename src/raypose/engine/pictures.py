"""The pictures of a report: which images are worth looking at, and how they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from raypose.data.shard_set import ShardSet
from raypose.evaluate.image_scores import ImageScores
from raypose.evaluate.report import Gallery, Picture
from raypose.inference import Predictor
from raypose.structures import Poses
from raypose.vision.decode import decode_rgb
from raypose.vision.draw import draw_people, draw_poses, encode_jpeg
from raypose.vision.zoom import Zoom

_SIDE_PX = 560
_QUALITY = 82
_FAULTS = {
    "missed": ("People who were missed", "person missed", "people missed"),
    "extra": ("People where nobody is labelled", "invented", "invented"),
    "jitter": ("Jitter: keypoints near their place", "jitter", "jitters"),
    "inversion": ("Inversion: left and right exchanged", "inversion", "inversions"),
    "swap": ("Swap: keypoints on another person", "swap", "swaps"),
    "miss": ("Miss: keypoints nowhere near", "miss", "misses"),
}


@dataclass(frozen=True, slots=True)
class Group:
    """Images, by their number in the scores, under a common heading."""

    title: str
    explanation: str
    images: tuple[int, ...]


def choose(scores: ImageScores, count: int) -> list[Group]:
    """The `count` worst and the `count` best images, and half as many with the most faults of each kind."""
    groups = [
        Group("Worst", "The lowest scores.", tuple(scores.worst(count))),
        Group("Best", "The highest scores.", tuple(scores.best(count))),
    ]
    for kind, counts_I in scores.faults().items():
        order = np.lexsort((scores.score_I, -counts_I))[: count // 2]
        faulty = tuple(int(image) for image in order if counts_I[image])
        total, images = int(counts_I.sum()), int(np.count_nonzero(counts_I))
        explanation = f"{total} in {images} of {len(scores)} images; here are those with most of them."
        groups.append(Group(_FAULTS[kind][0], explanation, faulty))
    return [group for group in groups if group.images]


def draw_galleries(groups: list[Group], scores: ImageScores, shards: ShardSet, predictor: Predictor) -> list[Gallery]:
    """Each image of the groups predicted and drawn, once."""
    wanted = sorted({image for group in groups for image in group.images})
    drawn = dict(zip(wanted, _draw(wanted, scores, shards, predictor), strict=True))
    return [Gallery(group.title, group.explanation, tuple(drawn[image] for image in group.images)) for group in groups]


def _draw(wanted: list[int], scores: ImageScores, shards: ShardSet, predictor: Predictor) -> Iterator[Picture]:
    for image in wanted:
        sample = shards.sample(*shards.locate(int(scores.place_I[image])))
        pixels_HW3 = decode_rgb(sample.image, sample.id)
        (poses,) = predictor.predict([pixels_HW3])
        kept = _at_least(poses, scores.confidence)
        boxes_N4 = np.concatenate([sample.people.box_xyxy_N4, kept.box_xyxy_N4])
        zoom = Zoom.on_people(boxes_N4, sample.width, sample.height, longest_px=_SIDE_PX)
        seen_HW3, skeleton = zoom.image(pixels_HW3), predictor.spec.skeleton
        labelled = draw_people(seen_HW3, zoom.people(sample.people), skeleton)
        predicted = draw_poses(seen_HW3, zoom.poses(kept), skeleton, min_score=0.0)
        yield Picture(
            sample.id, encode_jpeg(labelled, _QUALITY), encode_jpeg(predicted, _QUALITY), _how_it_went(scores, image)
        )


def _at_least(poses: Poses, confidence: float) -> Poses:
    kept_N = poses.score_N >= confidence
    return Poses(poses.box_xyxy_N4[kept_N], poses.score_N[kept_N], poses.class_N[kept_N], poses.keypoints_NK3[kept_N])


def _how_it_went(scores: ImageScores, image: int) -> str:
    faults = [
        f"{counts_I[image]} {_FAULTS[kind][1 if counts_I[image] == 1 else 2]}"
        for kind, counts_I in scores.faults().items()
        if counts_I[image]
    ]
    return ", ".join([f"score {scores.score_I[image]:.2f}", *faults])
