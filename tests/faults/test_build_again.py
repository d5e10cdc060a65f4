"""Builds that are spread over processes, killed and taken up again: always the same files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from raypose.data.build import LocalProcesses, build_shard_set
from raypose.data.importers import LabelledSource, SourceImage
from raypose.data.importers.folder import read_folder, write_folder
from raypose.data.shard_set import ShardSet
from raypose.data.synth import synthesize
from raypose.data.synth_folder import synthesize_folder
from raypose.errors import RayposeError, StorageError
from raypose.structures import COCO_PERSON, Sample
from tests.unit.test_build import JPEG, SKELETON, files_in, of_bytes, sample

IMAGES = 240
SHARD_BYTES = 24_000


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of drawn people."""
    folder = tmp_path_factory.mktemp("drawn") / "people"
    write_folder(synthesize(IMAGES, seed=5, size_px=64), COCO_PERSON, ("person",), folder)
    return folder


@pytest.fixture(scope="module")
def expected(people: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the shard set of `people`, built in one go by one process."""
    out = tmp_path_factory.mktemp("expected") / "set"
    build_shard_set(read_folder(people), str(out), shard_bytes=SHARD_BYTES)
    files = files_in(out)
    assert len(files) > 20
    return files


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_makes_the_same_files(
    workers: int, people: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "set"
    build_shard_set(read_folder(people), str(out), shard_bytes=SHARD_BYTES, runner=LocalProcesses(workers))
    assert files_in(out) == expected


def test_any_number_of_workers_draws_the_same_people(people: Path, tmp_path: Path) -> None:
    synthesize_folder(IMAGES, 5, 64, tmp_path / "people", runner=LocalProcesses(2))
    assert files_in(tmp_path / "people") == files_in(people)


SCRIPT = """
import sys
import time
from dataclasses import dataclass, replace
from raypose.data.build import LocalProcesses, build_shard_set
from raypose.data.importers.folder import read_folder
from raypose.data.importers.source import SourceImage
from raypose.structures import Sample

@dataclass(frozen=True)
class Slowly:  # or a build may be done before it is killed
    read: object

    def __call__(self, image: SourceImage) -> Sample:
        time.sleep(0.02)
        return self.read(image)

if __name__ == "__main__":
    people, out, shard_bytes, workers = sys.argv[1:]
    source = read_folder(people)
    build_shard_set(
        replace(source, read=Slowly(source.read)), out, shard_bytes=int(shard_bytes),
        runner=LocalProcesses(int(workers)), say=print,
    )
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_build_that_is_killed_at_random_moments_ends_with_the_same_files(
    workers: int, people: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    script, out = tmp_path / "build.py", tmp_path / "set"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(people), str(out), str(SHARD_BYTES), str(workers)]
    chance = random.Random(workers)
    for at_least in (1, 6, 12):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while process.poll() is None and finished_in(out) < at_least:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        helpers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.communicate()
        _, alive = psutil.wait_procs(helpers, timeout=20)
        assert not alive  # nobody goes on building behind the back of the next attempt
    assert not (out / "manifest.json").exists()
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=200).stdout
    assert "going on: " in said
    assert files_in(out) == expected


def finished_in(out: Path) -> int:
    return sum(name.endswith(".json") for _, _, names in os.walk(out / ".building") for name in names)


@dataclass(frozen=True)
class FragileReader:
    """Reads image number i as the sample `str(i)`, but from `fails_at` on only if `fail` lets it."""

    fails_at: int
    fail: Callable[[], None]

    def __call__(self, image: SourceImage) -> Sample:
        READ.append(image.label)
        if image.label >= self.fails_at:
            self.fail()
        return sample(str(image.label))


READ: list[int] = []


def be_away() -> None:
    if "TEST_STORE_IS_THERE" not in os.environ:
        raise StorageError("s3://bucket: the server is away")


def die_once() -> None:
    marker = Path(os.environ["TEST_DIED"])
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def fragile_source(fail: Callable[[], None], *, version: str = "") -> LabelledSource:
    """Thirty images of which the last ten cannot be had yet."""
    images = [SourceImage(str(number), len(JPEG), number, version) for number in range(30)]
    return LabelledSource(SKELETON, ("person",), images, FragileReader(20, fail))


def build(source: LabelledSource, out: Path, **options: Any) -> list[str]:
    """What was said of it."""
    said: list[str] = []
    build_shard_set(source, str(out), **{"shard_bytes": of_bytes(2), "say": said.append} | options)
    return said


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The place of a build that stopped when ten of its fifteen shards were finished."""
    out = tmp_path / "set"
    with pytest.raises(StorageError, match="server is away; finished shards are kept"):
        build(fragile_source(be_away), out)
    assert finished_in(out) == 10
    return out


@pytest.fixture
def store_is_there(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_STORE_IS_THERE", "yes")
    READ.clear()


@pytest.mark.usefixtures("store_is_there")
def test_a_build_goes_on_where_it_stopped(begun: Path) -> None:
    said = build(fragile_source(be_away), begun)
    assert said == ["going on: 10 of 15 shards are finished; each is compared with its digest"]
    assert sorted(READ) == list(range(20, 30))
    assert [item.id for item in ShardSet.open(str(begun))] == [str(number) for number in range(30)]
    assert len(files_in(begun)) == 16


@pytest.mark.usefixtures("store_is_there")
def test_a_finished_shard_that_was_damaged_since_is_made_again(begun: Path) -> None:
    shard = sorted(begun.glob("shard-*"))[3]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"?")
    build(fragile_source(be_away), begun)
    assert sorted(READ) == [6, 7, *range(20, 30)]
    assert shard.read_bytes() == whole


@pytest.mark.usefixtures("store_is_there")
@pytest.mark.parametrize("change", ["shard size", "images"])
def test_another_build_starts_anew_and_says_so(change: str, begun: Path) -> None:
    source = fragile_source(be_away, version="edited" if change == "images" else "")
    said = build(source, begun, shard_bytes=of_bytes(3 if change == "shard size" else 2))
    assert said == ["removed 10 shards of an unfinished build with other images or settings; this one starts anew"]
    assert sorted(READ) == list(range(30))
    assert len(files_in(begun)) == (11 if change == "shard size" else 16)


def test_an_older_set_can_be_read_until_the_new_one_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "set"
    images = [SourceImage(str(number), len(JPEG), number) for number in range(100, 107)]
    build(LabelledSource(SKELETON, ("person",), images, FragileReader(1000, be_away)), out)
    older = files_in(out)
    with pytest.raises(StorageError):
        build(fragile_source(be_away), out, overwrite=True)
    assert older.items() <= files_in(out).items()
    assert list(ShardSet.open(str(out)).verify()) == [None] * 7
    monkeypatch.setenv("TEST_STORE_IS_THERE", "yes")
    build(fragile_source(be_away), out, overwrite=True)
    assert len(ShardSet.open(str(out))) == 30
    assert not files_in(out).keys() & older.keys() - {"manifest.json"}


def test_a_worker_that_dies_is_told_and_its_work_done_by_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_DIED", str(tmp_path / "died"))
    source, out = fragile_source(die_once), tmp_path / "set"
    with pytest.raises(RayposeError, match="exit code -9"):
        build(source, out, runner=LocalProcesses(2))
    (said,) = build(source, out, runner=LocalProcesses(2))
    assert said.startswith("going on: ")
    assert list(ShardSet.open(str(out)).verify()) == [None] * 30
