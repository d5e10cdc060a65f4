"""The report page of a run or of a validation: figures, curves and pictures of what the model sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from raypose.data.shard_set import ShardSet
from raypose.evaluate import Evaluation
from raypose.evaluate.report import Picture, ReportInput, render_report
from raypose.inference import Predictor
from raypose.storage import ObjectStore
from raypose.structures import Sample
from raypose.vision.decode import decode_rgb
from raypose.vision.draw import draw_people, draw_poses, encode_jpeg, side_by_side


def publish_report(
    store: ObjectStore,
    *,
    title: str,
    evaluation: Evaluation,
    predictor: Predictor,
    shards: ShardSet,
    pictures: int,
    facts: Mapping[str, str],
    history: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Write `index.html` and the pictures in it as files of their own below `store`."""
    samples = [shards.sample(*shards.locate(place)) for place in _evenly_spread(len(shards), pictures)]
    drawn = list(_draw(predictor, samples))
    for number, (_, both) in enumerate(drawn):
        store.write(f"pictures/{number:02d}.jpg", both)
    page = render_report(
        ReportInput(
            title=title,
            subtitle=f"{len(shards)} validation images from {shards.url}",
            facts=facts,
            evaluation=evaluation,
            history=list(history),
            pictures=[picture for picture, _ in drawn],
        )
    )
    store.write("index.html", page.encode())


def _draw(predictor: Predictor, samples: list[Sample]) -> Iterator[tuple[Picture, bytes]]:
    """Each sample for the page, as labelled and as predicted, and both side by side in one JPEG."""
    skeleton = predictor.spec.skeleton
    for sample in samples:
        image = decode_rgb(sample.image, sample.id)
        (poses,) = predictor.predict([image])
        labelled = draw_people(image, sample.people, skeleton)
        predicted = draw_poses(image, poses, skeleton)
        both = side_by_side(labelled, predicted, ("labelled", "predicted"))
        yield Picture(sample.id, encode_jpeg(labelled), encode_jpeg(predicted)), encode_jpeg(both)


def _evenly_spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` places out of `count`, first and last included."""
    wanted = min(count, wanted)
    return [round(index * (count - 1) / max(wanted - 1, 1)) for index in range(wanted)]
