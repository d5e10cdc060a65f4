"""Hostile and broken pickles, each read in a process of its own: nothing in them runs, and they take little memory."""

from __future__ import annotations

import os
import pickle
import sys
import zlib
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from raypose.data.manifest import Counts, Manifest
from raypose.data.safe_pickle import load_label
from raypose.data.shard import ShardReader, ShardWriter
from raypose.data.shard_set import ShardSet
from raypose.errors import DataError
from raypose.storage import open_store
from raypose.structures import People, Sample, Skeleton
from tests.forked import forking
from tests.hostile_pickles import BROKEN, HOSTILE, STOLEN

LIMIT_MIB = 100
LABEL = "labels/a.pkl"
ATTACKS = {name: content for name, (content, _) in HOSTILE.items()} | BROKEN
RUNNING_EVENTS = ("exec", "compile", "import", "os.", "subprocess.", "socket.", "ctypes.", "pickle.", "shutil.")
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory through /proc")


@dataclass(frozen=True)
class Trial:
    """What reading one pickle did: how it ended, the memory it took, and what Python was asked to do meanwhile."""

    ended: str
    message: str
    grown_mib: float
    events: tuple[str, ...]


def read_apart(source: bytes | Path, folder: Path) -> Trial:
    """Read a label's bytes or a shard's second record in a fresh process whose folder is `folder`."""
    context = forking()
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_try, args=(source, folder, sending))
    process.start()
    sending.close()
    try:
        return receiving.recv() if receiving.poll(60) else pytest.fail("no answer within a minute")
    finally:
        process.kill()
        process.join()


def _try(source: bytes | Path, folder: Path, answer: Connection) -> None:
    os.chdir(folder)
    reader = ShardReader.open(source) if isinstance(source, Path) else None
    events: list[str] = []
    is_watching = True
    sys.addaudithook(lambda event, _: events.append(event) if is_watching else None)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before_mib = _peak_mib()
    ended, message = "returned", ""
    try:
        if reader is None:
            load_label(source, LABEL)  # type: ignore[arg-type]
        else:
            reader[1]
    except BaseException as error:
        ended, message = ("DataError" if isinstance(error, DataError) else type(error).__name__), str(error)
    grown_mib = _peak_mib() - before_mib
    is_watching = False
    asked = tuple(event for event in events if event.startswith(RUNNING_EVENTS))
    answer.send(Trial(ended, message, grown_mib, asked))


def _peak_mib() -> float:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def a_sample(name: str) -> Sample:
    return Sample(name, b"an image", 40, 30, People.empty(3))


def shard_with(record: bytes, path: Path) -> ShardWriter:
    """A shard that is sound but for the second of its three records, checksums included."""
    with ShardWriter(path) as writer:
        writer.add(a_sample("before"))
        writer._entries.append((writer.size_bytes, len(record), zlib.crc32(record)))
        writer._write(record)
        writer.add(a_sample("after"))
    return writer


@pytest.mark.parametrize("name", ATTACKS)
def test_a_label_that_is_no_data_is_refused_by_name_in_little_memory(name: str, tmp_path: Path) -> None:
    trial = read_apart(ATTACKS[name], tmp_path)
    assert (trial.ended, trial.events) == ("DataError", ()), trial
    assert trial.grown_mib < LIMIT_MIB
    assert LABEL in trial.message and "\n" not in trial.message
    if name in HOSTILE:
        assert HOSTILE[name][1] in trial.message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ATTACKS)
def test_a_record_that_is_no_sample_is_refused_by_name_in_little_memory(name: str, tmp_path: Path) -> None:
    shard, folder = tmp_path / "shard-000007.pkl", tmp_path / "folder"
    folder.mkdir()
    shard_with(ATTACKS[name], shard)
    trial = read_apart(shard, folder)
    assert (trial.ended, trial.events) == ("DataError", ()), trial
    assert trial.grown_mib < LIMIT_MIB
    assert "shard-000007.pkl, record 1" in trial.message and "\n" not in trial.message
    assert not list(folder.iterdir())
    assert [ShardReader.open(shard)[index].id for index in (0, 2)] == ["before", "after"]


def test_there_are_more_than_forty_attacks_and_most_would_have_run_under_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(HOSTILE) >= 40 and len(ATTACKS) >= 80
    monkeypatch.chdir(tmp_path)
    for name in ("os.system", "posix by name", "builtins.exec", "nested deep", "pickle in a pickle"):
        pickle.loads(HOSTILE[name][0])
        (tmp_path / STOLEN).unlink()


def test_verify_names_the_hostile_record_of_a_set_whose_checksums_are_right(tmp_path: Path) -> None:
    writer = shard_with(HOSTILE["os.system"][0], tmp_path / "shard-000000.pkl")
    manifest = Manifest(Skeleton(("a", "b", "c")), ("person",), (writer.info(),), Counts())
    faults = [fault for fault in ShardSet(open_store(str(tmp_path)), manifest).verify() if fault]
    (hostile,) = (fault for fault in faults if fault.record == 1)
    assert hostile.shard == "shard-000000.pkl" and "system" in hostile.reason


def test_a_sound_label_passes_the_same_trial(tmp_path: Path) -> None:
    """Else the trial itself would be what fails above."""
    label = pickle.dumps([{"keypoints": np.ones((17, 3))}])
    trial = read_apart(label, tmp_path)
    assert (trial.ended, trial.events) == ("returned", ())
