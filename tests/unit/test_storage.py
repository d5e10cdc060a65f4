"""The store of local folders: what every store promises, and what only files can get wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raypose.errors import StorageError
from raypose.storage import ObjectStore, open_store
from raypose.storage.local import LocalStore
from tests.store_contract import StoreContract, keys


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return LocalStore(tmp_path / "store")


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
