"""Whoever claims a run last writes to it; all others may only read."""

from __future__ import annotations

import pickle
import socket
import threading
from pathlib import Path

import pytest

from raypose.errors import RunTakenOverError, StorageError
from raypose.launch import claim as claims
from raypose.launch.claim import Claim, ClaimedStore, watching
from raypose.storage.local import LocalStore


@pytest.fixture
def run(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "run")


def refuses_changes(store: ClaimedStore, file: Path) -> bool:
    file.write_bytes(b"late")
    below = store.child("checkpoints")
    for change in (
        lambda: store.write("key", b"late"),
        lambda: store.write_new("new", b"late"),
        lambda: below.upload(file, "key"),
        lambda: below.delete(["key"]),
    ):
        with pytest.raises(RunTakenOverError, match="has taken this run over at"):
            change()
    return True


def test_a_newcomer_takes_over_at_once_and_the_older_may_only_read(run: LocalStore, tmp_path: Path) -> None:
    older = ClaimedStore(run, Claim.take(run).renewed())
    older.write("key", b"old")
    older.child("checkpoints").write("key", b"old")
    newcomer = ClaimedStore(run, Claim.take(run).renewed())
    assert refuses_changes(older, tmp_path / "file")
    assert older.read("key") == older.child("checkpoints").read("key") == b"old"
    newcomer.write("key", b"new")
    newcomer.child("checkpoints").delete(["key"])
    assert [entry.key for entry in run.list()] == ["key", "writer.json"]


def test_workers_that_start_again_fence_off_those_that_were_thought_lost(run: LocalStore, tmp_path: Path) -> None:
    launch = Claim.take(run)
    lost = ClaimedStore(run, launch.renewed())
    restarted = ClaimedStore(run, launch.renewed())
    assert refuses_changes(lost, tmp_path / "file")
    restarted.write("key", b"new")


def test_workers_of_a_launch_that_was_replaced_do_not_take_the_run_back(run: LocalStore) -> None:
    older, newer = Claim.take(run), Claim.take(run)
    with pytest.raises(RunTakenOverError):
        older.renewed()
    newer.renewed().require()


def test_a_claim_holds_for_all_workers_that_it_is_sent_to(run: LocalStore) -> None:
    claim = Claim.take(run).renewed()
    ClaimedStore(run, pickle.loads(pickle.dumps(claim))).write("profile/rank-1.json", b"{}")
    other = pickle.loads(pickle.dumps(ClaimedStore(run, claim)))
    Claim.take(run)
    with pytest.raises(RunTakenOverError):
        other.write("profile/rank-1.json", b"{}")


def test_a_worker_that_has_another_folder_of_that_name_says_so(run: LocalStore, tmp_path: Path) -> None:
    launch = Claim.take(run)
    launch.require_shared()
    with pytest.raises(StorageError, match=rf"elsewhere/writer\.json: not there on {socket.gethostname()}.*s3://"):
        Claim(LocalStore(tmp_path / "elsewhere"), launch.launch).require_shared()


def test_the_older_hears_of_it_before_it_writes(run: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_LOOK_EVERY_S", 0.01)
    heard = threading.Event()
    with watching(Claim.take(run).renewed(), lambda error: heard.set()):
        assert not heard.wait(0.05)
        Claim.take(run)
        assert heard.wait(5)
