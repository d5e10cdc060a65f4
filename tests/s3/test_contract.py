"""The contract of stores, kept in buckets of real servers."""

from __future__ import annotations

import pytest
from tests.store_contract import StoreContract

from raypose.storage import ObjectStore, open_store


class TestS3Store(StoreContract):
    @pytest.fixture
    def store(self, s3_url: str) -> ObjectStore:
        return open_store(s3_url)
