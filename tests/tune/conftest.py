"""A set of drawn people, and the object store of the S3 tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_sets import build_synthetic
from tests.s3.conftest import moto_endpoint, s3_credentials

__all__ = ["moto_endpoint", "s3_credentials"]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_synthetic(tmp_path_factory.mktemp("data"))
