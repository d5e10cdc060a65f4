"""A local Ray, and one run that was trained there, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypose.telemetry import Event
from tests.data_sets import tiny_run


# Not for the session: tests of other folders want a Ray with another environment.
@pytest.fixture(scope="package")
def cluster() -> Iterator[None]:
    """More logical CPUs than there are real ones, so that runs of several workers fit anywhere."""
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="package")
def finished(cluster: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Event]]:
    """The summary of a run of two workers that drew and wrote all there is to look at, and what its driver heard."""
    import raypose

    events: list[Event] = []
    settings = ["scaling.workers=2", "scaling.cpus_per_worker=1", "val.batch=4"]
    settings += ["val.pictures=2", "val.training_images=4", "telemetry.tensorboard=true"]
    summary = raypose.train(tiny_run(data, tmp_path_factory.mktemp("runs"), *settings), report=events.append)
    return summary, events
