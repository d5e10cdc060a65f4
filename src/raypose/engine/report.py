"""The report page of a run or of a validation: figures, curves and pictures of what the model sees."""

from __future__ import annotations

from raypose.data.shard_set import ShardSet
from raypose.evaluate import Evaluation
from raypose.inference import Predictor
from raypose.storage import ObjectStore


def publish_report(
    store: ObjectStore,
    *,
    title: str,
    evaluation: Evaluation,
    predictor: Predictor,
    val_set: ShardSet,
    pictures: int,
    run_store: ObjectStore | None = None,
) -> None:
    """Write pictures and page below `store`."""


def _evenly_spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` places out of `count`, first and last included."""
    wanted = min(count, wanted)
    return [round(index * (count - 1) / max(wanted - 1, 1)) for index in range(wanted)]
