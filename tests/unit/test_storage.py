"""What every ObjectStore promises. A new kind of store joins by adding its factory to STORES."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypose.errors import StorageError
from raypose.storage import ObjectStore, open_store
from raypose.storage.local import LocalStore

STORES: dict[str, Callable[[Path], ObjectStore]] = {"local": lambda folder: LocalStore(folder / "store")}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return STORES[request.param](tmp_path)


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [entry.key for entry in store.list(prefix)]


def test_what_was_written_is_read_back(store: ObjectStore) -> None:
    store.write("runs/demo/state.json", b"{}")
    assert store.read("runs/demo/state.json") == b"{}"
    assert store.exists("runs/demo/state.json")


def test_a_second_write_replaces_the_object(store: ObjectStore) -> None:
    store.write("key", b"a long first content")
    store.write("key", b"short")
    assert store.read("key") == b"short"
    assert [(entry.key, entry.size_bytes) for entry in store.list()] == [("key", 5)]


def test_reading_what_is_not_there_names_it(store: ObjectStore) -> None:
    with pytest.raises(StorageError, match=r"no/such\.json"):
        store.read("no/such.json")
    assert not store.exists("no/such.json")


def test_a_prefix_is_not_an_object(store: ObjectStore) -> None:
    store.write("folder/object", b"1")
    assert not store.exists("folder")


def test_listing_is_in_order_of_keys_and_knows_sizes(store: ObjectStore) -> None:
    for key in ("b/2", "a-b", "b/10", "a/c", "b.x"):
        store.write(key, key.encode())
    assert keys(store) == ["a-b", "a/c", "b.x", "b/10", "b/2"]
    assert all(entry.size_bytes == len(entry.key) for entry in store.list())


def test_a_prefix_selects_by_characters_not_by_folders(store: ObjectStore) -> None:
    for key in ("shard-1.pkl", "shard-2.pkl", "shards/x", "manifest.json"):
        store.write(key, b"")
    assert keys(store, "shard-") == ["shard-1.pkl", "shard-2.pkl"]
    assert keys(store, "shard") == ["shard-1.pkl", "shard-2.pkl", "shards/x"]
    assert keys(store, "shards/") == ["shards/x"]
    assert keys(store, "nothing/") == []


def test_an_empty_store_lists_nothing(store: ObjectStore) -> None:
    assert keys(store) == []


def test_deleting_twice_is_no_error(store: ObjectStore) -> None:
    store.write("a/b", b"1")
    store.write("a/c", b"2")
    store.delete(["a/b", "never/was"])
    store.delete(["a/b"])
    assert keys(store) == ["a/c"]


def test_an_uploaded_file_comes_back_as_it_was(store: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom(100_000)
    source, target = tmp_path / "source.bin", tmp_path / "new" / "folder" / "target.bin"
    source.write_bytes(content)
    store.upload(source, "weights/best.pt")
    store.download("weights/best.pt", target)
    assert target.read_bytes() == content
    assert source.exists()


def test_a_failed_download_leaves_the_old_file_alone(store: ObjectStore, tmp_path: Path) -> None:
    target = tmp_path / "best.pt"
    target.write_bytes(b"old")
    with pytest.raises(StorageError, match="missing"):
        store.download("missing", target)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["best.pt"]


def test_a_failed_upload_names_the_file_and_leaves_no_object(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"not-there\.bin"):
        store.upload(tmp_path / "not-there.bin", "key")
    assert keys(store) == []


CLIMBING = ["", ".", "/etc/passwd", "../outside", "a/../../outside", "a/..", "a\\..\\b", "nul\0byte"]


@pytest.mark.parametrize("key", CLIMBING)
def test_keys_that_leave_the_store_are_refused(store: ObjectStore, key: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    for act in (
        lambda: store.read(key),
        lambda: store.write(key, b""),
        lambda: store.exists(key),
        lambda: store.delete([key]),
        lambda: store.child(key),
        lambda: store.upload(file, key),
        lambda: store.download(key, tmp_path / "target"),
    ):
        with pytest.raises(StorageError, match="not a relative path"):
            act()


@pytest.mark.parametrize("prefix", ["/etc/", "../", "a/../../"])
def test_listing_cannot_leave_the_store(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(StorageError, match="not a relative path"):
        keys(store, prefix)


def test_a_child_sees_its_part_under_shorter_keys(store: ObjectStore) -> None:
    store.write("runs/demo/config.yaml", b"name: demo")
    store.write("runs/other/config.yaml", b"name: other")
    child = store.child("runs/demo")
    assert keys(child) == ["config.yaml"]
    child.write("weights/best.pt", b"w")
    assert store.read("runs/demo/weights/best.pt") == b"w"
    assert child.url.endswith("runs/demo")


names = st.text("abc0-_", min_size=1, max_size=4)


@given(objects=st.dictionaries(st.builds("{}.d/{}.pkl".format, names, names), st.binary(max_size=20), max_size=6))
@settings(max_examples=25, deadline=None)
def test_a_store_holds_exactly_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, objects: dict[str, bytes]
) -> None:
    for make_store in STORES.values():
        store = make_store(tmp_path_factory.mktemp("store"))
        for key, content in objects.items():
            store.write(key, content)
        assert {entry.key: store.read(entry.key) for entry in store.list()} == objects
        store.delete(objects)
        assert keys(store) == []


def test_a_reader_never_sees_half_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    store.write("state.json", b"old")

    def power_cut(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", power_cut)
    with pytest.raises(StorageError, match="cannot write"):
        store.write("state.json", b"new")
    assert store.read("state.json") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"], "no temporary file stays behind"


def test_unfinished_writes_of_others_are_not_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write("done", b"1")
    (tmp_path / ".partial-abc").write_bytes(b"half")
    assert keys(store) == ["done"]


def test_a_folder_disappears_with_its_last_object_but_the_root_stays(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.write("checkpoints/step-1/state.json", b"{}")
    store.delete(["checkpoints/step-1/state.json"])
    assert list((tmp_path / "store").iterdir()) == []


def test_a_file_in_place_of_the_root_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    store = LocalStore(tmp_path / "store")
    for act in (lambda: store.write("key", b""), lambda: store.read("key"), lambda: keys(store)):
        with pytest.raises(StorageError, match="store"):
            act()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_a_storage_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        LocalStore(tmp_path).write("key", b"")


def test_open_store_takes_folders_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    open_store(str(tmp_path)).write("key", b"1")
    assert (tmp_path / "key").read_bytes() == b"1"
    with pytest.raises(StorageError, match="not supported"):
        open_store("ftp://host/folder")
