"""What every ObjectStore promises, as tests. A new kind of store joins with a subclass and a `store` fixture."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raypose.errors import StorageError
from raypose.storage import ObjectStore, open_parent, open_store

CLIMBING = ["", ".", "/etc/passwd", "../outside", "a/../../outside", "a/..", "a\\..\\b", "nul\0byte"]
ODD_KEYS = ["a b/c d", "50%25 off?", "plus+and&more=1", "#1", "ünïcode/名前.jpg", "tilde~dot.", "a:b@c"]
NAMES = st.text("abc0-_", min_size=1, max_size=4)


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [entry.key for entry in store.list(prefix)]


class StoreContract:
    """Each test gets an empty `store`."""

    def test_what_was_written_is_read_back(self, store: ObjectStore) -> None:
        store.write("runs/demo/state.json", b"{}")
        assert store.read("runs/demo/state.json") == b"{}"
        assert store.exists("runs/demo/state.json")
        assert store.size("runs/demo/state.json") == 2

    def test_a_second_write_replaces_the_object(self, store: ObjectStore) -> None:
        store.write("key", b"a long first content")
        store.write("key", b"short")
        assert store.read("key") == b"short"
        assert [(entry.key, entry.size_bytes) for entry in store.list()] == [("key", 5)]

    def test_a_version_differs_once_the_content_does(self, store: ObjectStore) -> None:
        store.write("key", b"first")
        [first] = store.list()
        store.write("key", b"other")
        [other] = store.list()
        assert first.version != other.version

    def test_reading_what_is_not_there_names_it(self, store: ObjectStore) -> None:
        for act in (store.read, store.size, lambda key: store.read_range(key, 0, 1)):
            with pytest.raises(StorageError, match=r"no/such\.json"):
                act("no/such.json")
        assert not store.exists("no/such.json")

    def test_a_prefix_is_not_an_object(self, store: ObjectStore) -> None:
        store.write("folder/object", b"1")
        assert not store.exists("folder")
        with pytest.raises(StorageError, match="folder"):
            store.size("folder")

    def test_a_range_is_cut_out_exactly(self, store: ObjectStore) -> None:
        store.write("key", bytes(range(100)))
        assert store.read_range("key", 0, 100) == bytes(range(100))
        assert store.read_range("key", 10, 11) == b"\n"
        assert store.read_range("key", 99, 100) == b"c"
        assert store.read_range("key", 50, 50) == b""

    @pytest.mark.parametrize(("start", "stop"), [(90, 101), (100, 101), (1000, 2000)])
    def test_a_range_beyond_the_end_is_refused(self, store: ObjectStore, start: int, stop: int) -> None:
        store.write("key", bytes(100))
        with pytest.raises(StorageError, match="key"):
            store.read_range("key", start, stop)

    @pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4)])
    def test_a_range_that_is_none_is_refused(self, store: ObjectStore, start: int, stop: int) -> None:
        store.write("key", bytes(100))
        with pytest.raises(StorageError, match="no range"):
            store.read_range("key", start, stop)

    def test_a_new_object_is_written_once(self, store: ObjectStore) -> None:
        assert store.write_new("a/claim", b"mine")
        assert not store.write_new("a/claim", b"yours")
        assert not store.write_new("a/claim", b"mine")
        assert store.read("a/claim") == b"mine"
        assert keys(store) == ["a/claim"]

    def test_of_many_who_write_a_new_object_one_succeeds(self, store: ObjectStore) -> None:
        barrier, won = threading.Barrier(8), []

        def claim(name: bytes) -> None:
            barrier.wait()
            if store.write_new("claim", name):
                won.append(name)

        threads = [threading.Thread(target=claim, args=(b"%d" % number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [store.read("claim")] == won

    def test_listing_is_in_order_of_keys_and_knows_sizes(self, store: ObjectStore) -> None:
        for key in ("b/2", "a-b", "b/10", "a/c", "b.x"):
            store.write(key, key.encode())
        assert keys(store) == ["a-b", "a/c", "b.x", "b/10", "b/2"]
        assert all(entry.size_bytes == len(entry.key) for entry in store.list())

    def test_a_prefix_selects_by_characters_not_by_folders(self, store: ObjectStore) -> None:
        for key in ("shard-1.pkl", "shard-2.pkl", "shards/x", "manifest.json"):
            store.write(key, b"")
        assert keys(store, "shard-") == ["shard-1.pkl", "shard-2.pkl"]
        assert keys(store, "shard") == ["shard-1.pkl", "shard-2.pkl", "shards/x"]
        assert keys(store, "shards/") == ["shards/x"]
        assert keys(store, "nothing/") == []

    def test_an_empty_store_lists_nothing(self, store: ObjectStore) -> None:
        assert keys(store) == []

    def test_deleting_twice_is_no_error(self, store: ObjectStore) -> None:
        store.write("a/b", b"1")
        store.write("a/c", b"2")
        store.delete(["a/b", "never/was"])
        store.delete(["a/b"])
        store.delete([])
        assert keys(store) == ["a/c"]

    def test_an_uploaded_file_comes_back_as_it_was(self, store: ObjectStore, tmp_path: Path) -> None:
        content = os.urandom(100_000)
        source, target = tmp_path / "source.bin", tmp_path / "new" / "folder" / "target.bin"
        source.write_bytes(content)
        store.upload(source, "weights/best.pt")
        store.download("weights/best.pt", target)
        assert target.read_bytes() == content
        assert source.exists()
        assert [path.name for path in target.parent.iterdir()] == ["target.bin"]

    def test_an_empty_file_is_an_object_too(self, store: ObjectStore, tmp_path: Path) -> None:
        (tmp_path / "empty").write_bytes(b"")
        store.upload(tmp_path / "empty", "empty")
        store.download("empty", tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == store.read("empty") == b""

    def test_a_failed_download_leaves_the_old_file_alone(self, store: ObjectStore, tmp_path: Path) -> None:
        target = tmp_path / "place" / "best.pt"
        target.parent.mkdir()
        target.write_bytes(b"old")
        with pytest.raises(StorageError, match="missing"):
            store.download("missing", target)
        assert target.read_bytes() == b"old"
        assert [path.name for path in target.parent.iterdir()] == ["best.pt"]

    def test_a_failed_upload_names_the_file_and_leaves_no_object(self, store: ObjectStore, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match=r"not-there\.bin"):
            store.upload(tmp_path / "not-there.bin", "key")
        assert keys(store) == []

    def test_a_download_to_where_no_file_can_be_names_the_file(self, store: ObjectStore, tmp_path: Path) -> None:
        store.write("key", b"1")
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StorageError, match=r"file/below.*cannot write"):
            store.download("key", tmp_path / "file" / "below")

    @pytest.mark.parametrize("key", CLIMBING)
    def test_keys_that_leave_the_store_are_refused(self, store: ObjectStore, key: str, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_bytes(b"")
        for act in (
            lambda: store.read(key),
            lambda: store.read_range(key, 0, 1),
            lambda: store.size(key),
            lambda: store.write(key, b""),
            lambda: store.write_new(key, b""),
            lambda: store.exists(key),
            lambda: store.delete([key]),
            lambda: store.child(key),
            lambda: store.place(key),
            lambda: store.upload(file, key),
            lambda: store.download(key, tmp_path / "target"),
        ):
            with pytest.raises(StorageError, match="not a relative path"):
                act()

    @pytest.mark.parametrize("prefix", ["/etc/", "../", "a/../../"])
    def test_listing_cannot_leave_the_store(self, store: ObjectStore, prefix: str) -> None:
        with pytest.raises(StorageError, match="not a relative path"):
            keys(store, prefix)

    def test_a_child_sees_its_part_under_shorter_keys(self, store: ObjectStore) -> None:
        store.write("runs/demo/config.yaml", b"name: demo")
        store.write("runs/demo-2/config.yaml", b"name: other")
        child = store.child("runs/demo")
        assert keys(child) == ["config.yaml"]
        child.write("weights/best.pt", b"w")
        assert store.read("runs/demo/weights/best.pt") == b"w"
        assert child.url == store.place("runs/demo")

    def test_a_url_opens_the_same_store_again(self, store: ObjectStore) -> None:
        store.write("runs/demo/config.yaml", b"1")
        assert keys(open_store(store.url)) == ["runs/demo/config.yaml"]
        assert keys(open_store(store.place("runs/demo"))) == ["config.yaml"]
        parent, key = open_parent(store.place("runs/demo/config.yaml"))
        assert (parent.read(key), key) == (b"1", "config.yaml")

    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_odd_keys_are_kept_as_they_are(self, store: ObjectStore, key: str) -> None:
        store.write(key, b"odd")
        assert keys(store) == [key]
        assert store.read(key) == b"odd"
        parent, name = open_parent(store.place(key))
        assert parent.read(name) == b"odd"
        assert open_store(store.place("sub/" + key)).url == store.place("sub/" + key)

    def test_a_pickled_store_is_the_same_store(self, store: ObjectStore) -> None:
        store.write("key", b"1")
        again = pickle.loads(pickle.dumps(store))
        assert again.url == store.url
        assert again.read("key") == b"1"

    def test_a_forked_process_has_the_store_too(self, store: ObjectStore) -> None:
        store.write("key", b"1")
        child = os.fork()
        if child == 0:
            try:
                store.write("from the child", store.read("key"))
            finally:
                os._exit(0)
        assert store.read("key") == b"1"
        os.waitpid(child, 0)
        assert store.read("from the child") == b"1"

    @given(objects=st.dictionaries(st.builds("{}.d/{}.pkl".format, NAMES, NAMES), st.binary(max_size=20), max_size=5))
    @settings(
        max_examples=15,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    def test_a_store_holds_exactly_what_was_written(self, store: ObjectStore, objects: dict[str, bytes]) -> None:
        part = store.child(uuid4().hex)
        for key, content in objects.items():
            part.write(key, content)
        assert {entry.key: part.read(entry.key) for entry in part.list()} == objects
        part.delete(objects)
        assert keys(part) == []
