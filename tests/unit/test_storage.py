"""The store of local folders: what every store promises, and what only files can get wrong."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raypose.errors import ConfigError, StorageError, StorageUnavailableError
from raypose.storage import ObjectStore, open_store, require_writable
from raypose.storage.local import LocalStore, appearing
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


def test_bytes_are_on_disk_before_their_name_is_and_both_before_a_write_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[bool, bool]] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        flushed.append((Path(f"/proc/self/fd/{descriptor}").is_dir(), (tmp_path / "key").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    for write in (LocalStore(tmp_path).write, LocalStore(tmp_path).write_new):
        write("key", b"whole")
        (tmp_path / "key").unlink()
        assert flushed == [(False, False), (True, True)]  # the file under another name, then its folder
        flushed.clear()


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    LocalStore(tmp_path).write("key", b"1")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o644


def test_unfinished_writes_of_others_are_not_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write("done", b"1")
    (tmp_path / ".partial-abc").write_bytes(b"half")
    assert keys(store) == ["done"]


def test_what_a_killed_write_left_goes_with_the_last_object_of_its_folder(tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from raypose.storage.local import appearing\n"
        f"with appearing(Path({str(tmp_path)!r}, 'step-1', 'model')) as temporary:\n"
        "    temporary.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    store = LocalStore(tmp_path)
    store.write("step-1/state.json", b"{}")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "step-1").iterdir())) == 2
    store.delete(["step-1/state.json"])
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_is_under_way_is_left_alone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write("step-1/state.json", b"{}")
    with appearing(tmp_path / "step-1" / "model") as temporary:
        (tmp_path / "step-1" / ".partial-abandoned").touch()
        store.delete(["step-1/state.json"])
        temporary.write_bytes(b"whole")
    assert store.read("step-1/model") == b"whole"


def test_what_was_written_is_not_locked_by_processes_that_were_forked_meanwhile(tmp_path: Path) -> None:
    receiver, sender = os.pipe()
    with appearing(tmp_path / "key") as temporary:
        temporary.write_bytes(b"1")
        child = os.fork()
        if child == 0:
            os.close(sender)
            os.read(receiver, 1)  # until the parent is done
            os._exit(0)
    try:
        with (tmp_path / "key").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(sender)
        os.waitpid(child, 0)
        os.close(receiver)


def test_linked_folders_are_listed_like_others_and_circles_once(tmp_path: Path) -> None:
    store, elsewhere = LocalStore(tmp_path / "store"), LocalStore(tmp_path / "elsewhere")
    store.write("images/a.jpg", b"1")
    elsewhere.write("sub/b.jpg", b"2")
    for name in ("tour", "again"):
        (tmp_path / "store" / "images" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "sub" / "up").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "store" / "images" / "all").symlink_to(tmp_path / "store" / "images")
    assert keys(store) == ["images/a.jpg", "images/again/sub/b.jpg", "images/tour/sub/b.jpg"]
    assert keys(store, "images/tour/") == ["images/tour/sub/b.jpg"]


def test_a_key_that_no_file_can_have_is_a_storage_error(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with pytest.raises(StorageError, match=r"a{300}: cannot read: File name too long$"):
        store.exists("a" * 300)
    store.write("file", b"")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert not store.exists("file/below") and not store.exists("circle")


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
    tmp_path.chmod(0o600)
    with pytest.raises(StorageError, match="cannot read: Permission denied"):
        LocalStore(tmp_path).exists("key")
    tmp_path.chmod(0o700)


def test_open_store_takes_folders_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    open_store(str(tmp_path)).write("key", b"1")
    assert (tmp_path / "key").read_bytes() == b"1"
    with pytest.raises(ConfigError, match="not supported"):
        open_store("ftp://host/folder")


def test_results_are_not_written_into_the_working_directory_of_a_ray_job(tmp_path: Path) -> None:
    job = tmp_path / "ray/session_1/runtime_resources/working_dir_files/_ray_pkg_0a1b"
    with pytest.raises(StorageError, match=r"storage: .*_ray_pkg_0a1b/runs lies in the working directory of a Ray job"):
        require_writable(LocalStore(job / "runs"), "storage")
    assert not job.exists()
    require_writable(LocalStore(tmp_path / "runs"), "storage")
    assert list((tmp_path / "runs").iterdir()) == []  # what it tried with is gone


def test_a_place_that_cannot_be_written_to_is_named_with_what_it_was_chosen_by(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"^data\.out: \S+/file/below/.*; choose a place that can be written to$"):
        require_writable(LocalStore(tmp_path / "file" / "below"), "data.out")

    class Away(LocalStore):
        def write(self, key: str, content: bytes) -> None:
            raise StorageUnavailableError("the server is away")

    with pytest.raises(StorageUnavailableError, match=r"^the server is away$"):  # waiting helps
        require_writable(Away(tmp_path), "data.out")
