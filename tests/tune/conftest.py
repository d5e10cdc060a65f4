"""The object store of the S3 tests."""

from __future__ import annotations

from tests.s3.conftest import moto_endpoint, s3_credentials

__all__ = ["moto_endpoint", "s3_credentials"]
