"""The contract of stores, kept in buckets of real servers."""

from __future__ import annotations

import pytest

from raypose.storage import ObjectStore, open_store
from tests.store_contract import StoreContract


class TestS3Store(StoreContract):
    @pytest.fixture
    def store(self, s3_url: str) -> ObjectStore:
        return open_store(s3_url)
