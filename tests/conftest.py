"""Settings that every test runs under: nobody is called, Ray's controller looks often, paths are short."""

from __future__ import annotations

import os

# Before anything imports Ray or Ultralytics: both read these once.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "120")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # seconds of every start
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.store_contract")

# How long an example takes says more about the machine than about the code.
settings.register_profile("raypose", deadline=None, max_examples=60)
settings.load_profile("raypose")

SHARED = {
    "tests/serve/": "service",
    "tests/cluster/test_build_on_ray.py": "cluster",
    "tests/cluster/test_train.py": "cluster",
    "tests/cluster/test_val.py": "cluster",
    "tests/s3/test_training.py": "ceph",
    "tests/s3/test_training_faults.py": "ceph",
}
"""Tests that share what takes many seconds to start, by the beginnings of their ids; besides, those with [rgw]."""


LONGEST = ("tests/tune/test_killed_sweep.py", "tests/cluster/test_killed_driver.py", "tests/monitoring/test_scrape.py")
"""Single tests of minutes. They go first, or one worker would wait for them in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`, one worker has not only all tests of a file, but all that share what is slow to start."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Sharing(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            groups = [group for beginning, group in SHARED.items() if nodeid.startswith(beginning)]
            if "[rgw" in nodeid:
                groups.append("ceph")
            return groups[0] if groups else str(super()._split_scope(nodeid))

    return Sharing(config, log)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shard sets `train` and `val` of drawn people, to be read only."""
    from tests.data_sets import build_synthetic

    return build_synthetic(tmp_path_factory.mktemp("data"))
