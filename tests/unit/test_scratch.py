"""Temporary folders: they go with their block, and those of killed processes with the next one."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypose.checkpoint import CheckpointStore
from raypose.storage import open_store
from raypose.storage.scratch import scratch_folder
from tests.unit.test_checkpoints import snapshot, write_model

KILLED_WHILE_SAVING = """
import os, signal, sys
from raypose.checkpoint import CheckpointStore
from raypose.storage import open_store
from tests.unit.test_checkpoints import snapshot
CheckpointStore(open_store(sys.argv[1])).save(snapshot(7), lambda path: os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this process and those that it starts make temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_what_a_kill_in_the_middle_of_a_checkpoint_has_left_goes_with_the_next_one(
    temporary: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path / "run")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(list(temporary.glob("*/state.safetensors"))) == 1
    CheckpointStore(open_store(str(tmp_path / "run"))).save(snapshot(7), write_model)
    assert list(temporary.iterdir()) == []


def test_a_folder_that_is_in_use_stays_whoever_makes_another_one(temporary: Path) -> None:
    with scratch_folder("mine") as mine:
        (mine / "file").touch()
        make_another = "from raypose.storage.scratch import scratch_folder\nwith scratch_folder('other'): ..."
        subprocess.run([sys.executable, "-c", make_another], check=True)
        with scratch_folder("other") as other:
            assert other != mine
        assert (mine / "file").exists()
    assert list(temporary.iterdir()) == []
