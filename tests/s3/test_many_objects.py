"""Buckets of more objects than one answer lists, and files of more bytes than one request carries."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from raypose.storage import ObjectStore, open_store
from tests.s3.servers import client_of


def read_length(store: ObjectStore, key: str) -> int:
    return len(store.read(key))


def test_more_objects_than_a_page_are_listed_in_order_and_deleted(s3_url: str) -> None:
    store = open_store(s3_url)
    keys = [f"set/{number:04d}.jpg" for number in range(1100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.write(key, key.encode()), reversed(keys)))
    assert [entry.key for entry in store.list("set/")] == keys
    store.delete([*keys, "set/never-was.jpg"])
    assert list(store.list()) == []


def test_what_consoles_leave_to_show_folders_is_no_object(s3_endpoint: str, s3_url: str) -> None:
    store = open_store(s3_url)
    bucket, _, prefix = s3_url.partition("?")[0].removeprefix("s3://").partition("/")
    client_of(s3_endpoint).put_object(Bucket=bucket, Key=f"{prefix}/images/", Body=b"")
    store.write("images/a.jpg", b"1")
    assert [entry.key for entry in store.list()] == ["images/a.jpg"]


def test_a_file_of_many_parts_comes_back_as_it_was(s3_url: str, tmp_path: Path) -> None:
    store = open_store(s3_url)
    content = os.urandom(50 * 2**20 + 1)
    (tmp_path / "large").write_bytes(content)
    store.upload(tmp_path / "large", "large")
    assert store.size("large") == len(content)
    store.download("large", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == content
    assert store.read_range("large", 16 * 2**20 - 1, 16 * 2**20 + 1) == content[16 * 2**20 - 1 : 16 * 2**20 + 1]


def test_processes_and_threads_use_a_store_at_a_time(s3_url: str) -> None:
    store = open_store(s3_url)
    store.write("key", b"12345")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(read_length, [store] * 4, ["key"] * 4)) == [5] * 4
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(read_length, [store] * 64, ["key"] * 64)) == [5] * 64
