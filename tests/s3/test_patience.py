"""Servers that are away for a while, break off or fall silent: what comes through, and what is said otherwise."""

from __future__ import annotations

import logging
import os
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raypose.config.s3_url import S3Location
from raypose.errors import StorageError, StorageUnavailableError
from raypose.storage import ObjectStore, open_store
from tests.s3.conftest import BUCKET, below
from tests.s3.proxy import Line, line_to


@pytest.fixture
def line(s3_endpoint: str) -> Iterator[Line]:
    with line_to(s3_endpoint) as line:
        yield line


@pytest.fixture
def store(line: Line, s3_url: str) -> ObjectStore:
    """A store behind the line."""
    return open_store(below(s3_url, "", endpoint_url=line.endpoint))


def restore_later(line: Line, after_s: float) -> threading.Timer:
    timer = threading.Timer(after_s, line.restore)
    timer.start()
    return timer


def test_every_operation_waits_for_a_server_that_is_away(line: Line, store: ObjectStore, tmp_path: Path) -> None:
    store.write("key", b"before")
    (tmp_path / "file").write_bytes(b"file")
    for act in (
        lambda: store.read("key"),
        lambda: store.read_range("key", 0, 3),
        lambda: store.size("key"),
        lambda: store.exists("key"),
        lambda: store.write("key", b"after"),
        lambda: store.write_new("new", b"1"),
        lambda: store.upload(tmp_path / "file", "uploaded"),
        lambda: store.download("key", tmp_path / "downloaded"),
        lambda: list(store.list()),
        lambda: store.delete(["key"]),
    ):
        line.cut()
        timer = restore_later(line, 0.8)
        act()
        timer.join()
    assert [entry.key for entry in store.list()] == ["new", "uploaded"]
    assert (tmp_path / "downloaded").read_bytes() == b"after"


def test_the_wait_is_told_once_at_its_beginning(
    line: Line, store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.write("key", b"1")
    line.cut()
    restore_later(line, 2)
    with caplog.at_level(logging.WARNING, "raypose.storage"):
        store.read("key")
    [told] = [record.getMessage() for record in caplog.records if record.name == "raypose.storage"]
    assert "cannot be reached (Connection refused)" in told
    assert "trying again for 1" in told


def test_a_server_that_stays_away_is_given_up_after_the_deadline(line: Line, s3_url: str) -> None:
    store = open_store(below(s3_url, "", endpoint_url=line.endpoint, deadline_s=2.0))
    store.write("key", b"1")
    line.cut()
    started_s = time.monotonic()
    with pytest.raises(
        StorageUnavailableError, match=r"key.*cannot read.*Connection refused.*tried for 2 s"
    ) as failure:
        store.read("key")
    assert time.monotonic() - started_s >= 2
    assert "\n" not in str(failure.value)
    assert str(pickle.loads(pickle.dumps(failure.value))) == str(failure.value)


def test_a_host_that_does_not_exist_is_named(s3_url: str) -> None:
    store = open_store(below(s3_url, "", endpoint_url="http://no-such-host.invalid:9000", deadline_s=0.5))
    with pytest.raises(StorageUnavailableError, match=r"http://no-such-host.invalid:9000 cannot be reached"):
        store.exists("key")


def test_a_download_that_breaks_off_is_begun_again_and_comes_whole(
    line: Line, store: ObjectStore, tmp_path: Path
) -> None:
    content = os.urandom(40 * 2**20)
    (tmp_path / "large").write_bytes(content)
    store.upload(tmp_path / "large", "large")
    for cut_after in (10, 100_000, 20 * 2**20, 39 * 2**20):
        line.cut_answers_after(cut_after)
        store.download("large", tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == content
        line.cut_answers_after(cut_after)
        assert store.read("large") == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "large"]


def test_an_upload_goes_on_after_the_line_was_cut(line: Line, store: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom(64 * 2**20)
    (tmp_path / "large").write_bytes(content)
    line.cut_requests_after(20 * 2**20)

    def stay_away() -> None:
        assert line.broke.wait(60)
        line.cut()
        time.sleep(2)
        line.restore()

    with ThreadPoolExecutor(1) as pool:
        outage = pool.submit(stay_away)
        store.upload(tmp_path / "large", "large")
        outage.result()
    assert store.read("large") == content


def test_a_first_write_whose_answer_was_lost_is_known_as_ours(line: Line, store: ObjectStore) -> None:
    store.write("warm-up", b"")
    line.cut_answers_after(0)
    assert store.write_new("claim", b"mine")
    assert not store.write_new("claim", b"mine")
    assert store.read("claim") == b"mine"


def test_a_server_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch, line: Line, s3_url: str) -> None:
    monkeypatch.setattr("raypose.storage.s3_client._READ_TIMEOUT_S", 0.5)
    store = open_store(below(s3_url, "", endpoint_url=line.endpoint, deadline_s=1.0))
    line.fall_silent()
    with pytest.raises(StorageUnavailableError, match="does not answer in time"):
        store.read("key")
    assert line.connections > 1


def test_an_object_that_is_replaced_while_it_is_downloaded_comes_as_one_of_both(
    line: Line, store: ObjectStore, tmp_path: Path
) -> None:
    versions = [bytes([value]) * (40 * 2**20) for value in (1, 2)]
    store.write("key", versions[0])
    replace = threading.Timer(0.05, store.write, args=("key", versions[1]))
    replace.start()
    store.download("key", tmp_path / "file")
    replace.join()
    assert (tmp_path / "file").read_bytes() in versions


def test_no_wait_for_what_will_not_change(s3_endpoint: str) -> None:
    store = open_store(S3Location("no-such-bucket", endpoint_url=s3_endpoint).url)
    started_s = time.monotonic()
    with pytest.raises(StorageError, match="no such bucket"):
        store.write("key", b"")
    assert time.monotonic() - started_s < 60, "the deadline of 120 s was not waited for"
    assert BUCKET not in store.url
