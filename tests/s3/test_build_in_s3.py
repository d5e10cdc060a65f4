"""Shard sets built from a bucket into a bucket: the same objects as files from a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raypose.data.build import LocalProcesses, build_shard_set
from raypose.data.importers import LabelledSource
from raypose.data.importers.coco import read_coco
from raypose.data.importers.folder import read_folder, write_folder
from raypose.data.importers.yolo_txt import read_yolo
from raypose.data.synth import synthesize
from raypose.errors import DataError, StorageError
from raypose.storage import ObjectStore, open_store
from raypose.structures import COCO_PERSON
from tests.s3.conftest import below

IMAGES = 40
SHARD_BYTES = 24_000


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "people"
    write_folder(synthesize(IMAGES, seed=5, size_px=64), COCO_PERSON, ("person",), folder)
    return folder


@pytest.fixture
def expected(people: Path, tmp_path: Path) -> dict[str, bytes]:
    build_shard_set(read_folder(people), str(tmp_path / "expected"), shard_bytes=SHARD_BYTES)
    return objects_in(open_store(str(tmp_path / "expected")))


@pytest.fixture
def people_url(people: Path, s3_url: str) -> str:
    """The same folder in a bucket."""
    url = below(s3_url, "people")
    copy(people, url)
    return url


def copy(folder: Path, url: str) -> None:
    store = open_store(url)
    for path in folder.rglob("*"):
        if path.is_file():
            store.upload(path, path.relative_to(folder).as_posix())


def objects_in(store: ObjectStore) -> dict[str, bytes]:
    return {entry.key: store.read(entry.key) for entry in store.list()}


def test_a_bucket_receives_what_a_folder_would_have_received(
    people_url: str, s3_url: str, expected: dict[str, bytes]
) -> None:
    out = below(s3_url, "set")
    build_shard_set(read_folder(people_url), out, shard_bytes=SHARD_BYTES, runner=LocalProcesses(2))
    assert objects_in(open_store(out)) == expected


class KilledError(RuntimeError):
    """Stands for whatever ends a process without a word."""


def test_a_build_into_a_bucket_goes_on_and_keeps_the_older_set_until_then(
    people_url: str, s3_url: str, expected: dict[str, bytes]
) -> None:
    source, out = read_folder(people_url), below(s3_url, "set")
    few = LabelledSource(source.skeleton, source.class_names, source.images[5:9], source.read)
    build_shard_set(few, out, shard_bytes=SHARD_BYTES)
    older = objects_in(open_store(out))
    said: list[str] = []

    def give_up(images: int, _: int) -> None:
        if images > IMAGES // 2:
            raise KilledError

    with pytest.raises(KilledError):
        build_shard_set(source, out, shard_bytes=SHARD_BYTES, overwrite=True, progress=give_up)
    assert older.items() <= objects_in(open_store(out)).items()
    build_shard_set(source, out, shard_bytes=SHARD_BYTES, overwrite=True, say=said.append)
    assert said and said[0].startswith("going on: ")
    assert objects_in(open_store(out)) == expected


def test_bad_data_leaves_nothing_in_the_bucket(people_url: str, s3_url: str) -> None:
    name = "images/synth-000030.jpg"
    store = open_store(people_url)
    store.write(name, store.read(name)[:-200])
    with pytest.raises(DataError, match="synth-000030: damaged or cut-off"):
        build_shard_set(read_folder(people_url), below(s3_url, "set"), shard_bytes=SHARD_BYTES)
    assert objects_in(open_store(below(s3_url, "set"))) == {}


def test_coco_and_yolo_are_read_from_a_bucket(people: Path, people_url: str, s3_url: str) -> None:
    category = {"id": 1, "name": "person", "keypoints": list(COCO_PERSON.names)}
    images = [{"id": number, "file_name": f"synth-{number:06d}.jpg"} for number in range(3)]
    raw = {"images": images, "annotations": [], "categories": [category]}
    store = open_store(s3_url)
    store.write("coco.json", json.dumps(raw).encode())
    source = read_coco(below(s3_url, "coco.json"), below(people_url, "images"))
    assert [sample.id for sample in source.samples] == [f"synth-{number:06d}" for number in range(3)]
    store.write("yolo/data.yaml", b"path: ../people\ntrain: images\nnames: [person]\nkpt_shape: [1, 3]\n")
    store.write("people/labels/synth-000001.txt", b"0 .5 .5 .5 .5 .4 .4 2\n")
    yolo = read_yolo(below(s3_url, "yolo/data.yaml"), "train")
    assert [len(sample.people) for sample in yolo.samples][:3] == [0, 1, 0]
    assert len(yolo.images) == IMAGES


def test_a_place_that_is_not_there_is_told(s3_url: str) -> None:
    with pytest.raises(DataError, match=r"dataset\.yaml.*: cannot read classes and skeleton"):
        read_folder(below(s3_url, "nothing"))
    with pytest.raises(StorageError):
        read_folder("s3://no-such-bucket-here?" + s3_url.partition("?")[2])
