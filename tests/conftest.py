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

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.store_contract")

# How long an example takes says more about the machine than about the code.
settings.register_profile("raypose", deadline=None, max_examples=60)
settings.load_profile("raypose")
