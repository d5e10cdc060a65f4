"""A local Ray for the tests of each file, and one set of drawn people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.data_sets import build_synthetic


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_synthetic(tmp_path_factory.mktemp("data"))


# Not for the session: tests of other folders want a Ray with another environment.
@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """More logical CPUs than there are real ones, so that runs of several workers fit anywhere."""
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()
