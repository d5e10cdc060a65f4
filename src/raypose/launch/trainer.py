"""Ray's trainer, without what it starts for Ray Data."""

from __future__ import annotations

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback


class StreamingTrainer(TorchTrainer):  # type: ignore[misc]  # it has no types
    """For workers that read their data themselves.

    Ray starts a process to deal out Ray Data sets for each group of workers, also where there are none: seconds of
    processor time at every start and recovery.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        return [one for one in super()._create_default_callbacks() if not isinstance(one, DatasetsCallback)]
