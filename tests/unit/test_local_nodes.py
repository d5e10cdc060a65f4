"""A folder in which no cluster of one's own can be kept is refused in one line, before anything starts."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypose.errors import ConfigError
from raypose.launch import local_nodes


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rp-") as made:  # short: Ray's sockets lie below it
        yield Path(made)
        with contextlib.suppress(ConfigError):
            local_nodes.down(Path(made))  # what should not have been started


def test_a_folder_of_another_user_is_not_trusted_with_a_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match="belongs to another user; choose another with --folder"):
        local_nodes.up(folder, nodes=1, cpus=1)
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(ConfigError, match=r"file/below: cannot be made: .*--folder"):
        local_nodes.up(folder / "file/below", nodes=1, cpus=1)
    with pytest.raises(ConfigError, match=r"file/below: cannot be read: .*--folder"):
        local_nodes.load(folder / "file/below")
