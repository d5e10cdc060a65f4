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

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.store_contract")

# How long an example takes says more about the machine than about the code.
settings.register_profile("raypose", deadline=None, max_examples=60)
settings.load_profile("raypose")

SHARED = {"served": "service", "cluster": "cluster", "rgw": "ceph", "server": "ceph"}
"""Fixtures that take many seconds to start, and the group of the tests that use them."""


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks when its own turn has come
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of several workers, one gets all tests that share what takes long to start, and else all of a file."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_shared_by(item) or item.location[0]))


def _shared_by(item: pytest.Item) -> str | None:
    if getattr(item, "callspec", None) and item.callspec.params.get("s3_endpoint") == "rgw":
        return SHARED["rgw"]
    return next((SHARED[name] for name in getattr(item, "fixturenames", ()) if name in SHARED), None)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shard sets `train` and `val` of drawn people, to be read only."""
    from tests.data_sets import build_synthetic

    return build_synthetic(tmp_path_factory.mktemp("data"))
