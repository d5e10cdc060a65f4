"""Shard sets that Ray tasks build: the same files as in one process, whatever happens on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from raypose.data.build import build_shard_set
from raypose.data.importers import LabelledSource, SourceImage, source_of
from raypose.data.importers.folder import read_folder, write_folder
from raypose.data.synth import synthesize
from raypose.errors import DataError
from raypose.launch.spread import RayTasks
from raypose.structures import COCO_PERSON, Sample
from tests.data_sets import files_in

SHARD_BYTES = 24_000

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn people."""
    folder = tmp_path_factory.mktemp("drawn") / "people"
    write_folder(synthesize(60, seed=5, size_px=64), COCO_PERSON, ("person",), folder)
    return folder


@pytest.fixture(scope="module")
def people(folder: Path) -> LabelledSource:
    return read_folder(folder)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("at_once", [None, 1])
def test_ray_tasks_make_the_same_files_as_one_process(
    at_once: int | None, people: LabelledSource, tmp_path: Path
) -> None:
    heard: list[int] = []
    build_shard_set(people, str(tmp_path / "here"), shard_bytes=SHARD_BYTES)
    build_shard_set(
        people,
        str(tmp_path / "there"),
        shard_bytes=SHARD_BYTES,
        runner=RayTasks(at_once),
        progress=lambda images, _: heard.append(images),
    )
    assert files_in(tmp_path / "there") == files_in(tmp_path / "here")
    assert heard == sorted(heard) and heard[-1] == 60


@dataclass(frozen=True)
class DyingOnce:
    """Takes the whole process along that reads the first image, once."""

    source: LabelledSource
    marker: str

    def __call__(self, image: SourceImage) -> Sample:
        if image.key == self.source.images[0].key and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.source.read(image)


@pytest.mark.usefixtures("cluster")
def test_a_task_whose_process_is_killed_is_done_again(people: LabelledSource, tmp_path: Path) -> None:
    fragile = LabelledSource(
        people.skeleton, people.class_names, people.images, DyingOnce(people, str(tmp_path / "died"))
    )
    build_shard_set(people, str(tmp_path / "here"), shard_bytes=SHARD_BYTES)
    build_shard_set(fragile, str(tmp_path / "there"), shard_bytes=SHARD_BYTES, runner=RayTasks())
    assert (tmp_path / "died").exists()
    assert files_in(tmp_path / "there") == files_in(tmp_path / "here")


@pytest.mark.usefixtures("cluster")
def test_bad_images_are_told_as_ever_and_nothing_stays(people: LabelledSource, tmp_path: Path) -> None:
    samples = [people.read(image) for image in people.images[:20]]
    samples[3:12:4] = [Sample(bad.id, bad.image[:-200], bad.width, bad.height, bad.people) for bad in samples[3:12:4]]
    source = source_of(samples, COCO_PERSON, ("person",))
    with pytest.raises(DataError) as caught:
        build_shard_set(source, str(tmp_path / "set"), shard_bytes=4000, runner=RayTasks())
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        f"synth-{number:06d}" for number in (3, 7, 11)
    ]
    assert list(tmp_path.iterdir()) == []


TWO_NODES = """
import os, sys, time
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from raypose.data.build import build_shard_set
from raypose.data.importers import LabelledSource
from raypose.data.importers.folder import read_folder
from raypose.launch.spread import RayTasks


@dataclass(frozen=True)
class Noting:
    read: object
    notes: str

    def __call__(self, image):
        Path(self.notes, ray.get_runtime_context().get_node_id()).touch()
        deadline = time.monotonic() + 120  # the other node's process may still be starting
        while len(list(Path(self.notes).iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.read(image)


people, out, notes = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
other = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
os.environ["RAY_ADDRESS"] = cluster.address
source = read_folder(people)
noting = LabelledSource(source.skeleton, source.class_names, source.images, Noting(source.read, notes))


def lose_a_node(images, _):
    if len(list(Path(notes).iterdir())) == 2 and other in cluster.list_all_nodes():
        cluster.remove_node(other, allow_graceful=False)
        print("lost a node after", images, "images", flush=True)


build_shard_set(noting, out, shard_bytes=24_000, runner=RayTasks(), progress=lose_a_node)
cluster.shutdown()
"""


def test_tasks_spread_over_nodes_and_outlive_one(folder: Path, tmp_path: Path) -> None:
    script, notes = tmp_path / "two_nodes.py", tmp_path / "nodes"
    script.write_text(TWO_NODES)
    notes.mkdir()
    command = [sys.executable, str(script), str(folder), str(tmp_path / "there"), str(notes)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=200).stdout
    assert len(list(notes.iterdir())) == 2 and "lost a node after" in said
    build_shard_set(read_folder(folder), str(tmp_path / "here"), shard_bytes=SHARD_BYTES)
    assert files_in(tmp_path / "there") == files_in(tmp_path / "here")
