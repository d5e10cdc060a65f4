"""The report page of a run or of a validation: figures, curves and pictures of what the model sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from raypose.data.shard_set import ShardSet
from raypose.engine.pictures import choose, draw_galleries
from raypose.evaluate import Evaluation
from raypose.evaluate.report import ReportInput, render_report
from raypose.inference import Predictor
from raypose.storage import ObjectStore


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
    trained: Mapping[str, float] | None = None,
) -> None:
    """Write `index.html` below `store`. `evaluation` must be of `shards`, in their order.

    `pictures` is how many of the best and of the worst images are shown; `trained` are metrics of training images.
    """
    groups = choose(evaluation.images, pictures)
    page = render_report(
        ReportInput(
            title=title,
            subtitle=f"{len(shards)} validation images from {shards.url}",
            facts=facts,
            evaluation=evaluation,
            history=list(history),
            trained=trained,
            galleries=draw_galleries(groups, evaluation.images, shards, predictor),
        )
    )
    store.write("index.html", page.encode())
