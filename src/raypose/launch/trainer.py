"""Ray's trainer, without the processes that it starts for what is not needed here."""

from __future__ import annotations

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback

_NOT_NEEDED = (DatasetsCallback, PlacementGroupCleanerCallback)


class StreamingTrainer(TorchTrainer):  # type: ignore[misc]  # it has no types
    """For workers that read their data themselves.

    Ray starts a process to deal out Ray Data sets for each group of workers, also where there are none: seconds of
    processor time at every start and recovery. Another one looks after placement groups whose controller dies. Those
    of a run go with its driver, which ends when its controller does.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        return [one for one in super()._create_default_callbacks() if not isinstance(one, _NOT_NEEDED)]
