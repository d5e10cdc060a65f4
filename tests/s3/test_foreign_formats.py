"""Imports from a bucket and exports into one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raypose.data.build import build_shard_set
from raypose.data.exporters.coco import export_coco
from raypose.data.exporters.yolo import export_yolo
from raypose.data.importers.coco import read_coco
from raypose.data.importers.mpii import read_mpii
from raypose.data.importers.source import source_of
from raypose.data.importers.yolo_txt import read_yolo
from raypose.data.shard_set import ShardSet
from raypose.data.synth import synthesize
from raypose.errors import StorageError
from raypose.storage import open_store
from raypose.structures import COCO_PERSON
from tests.pictures import picture
from tests.s3.conftest import below


def test_a_set_goes_into_a_bucket_and_comes_back_the_same(s3_url: str, tmp_path: Path) -> None:
    made = build_shard_set(source_of(synthesize(5, 1, 96), COCO_PERSON, ("person",)), str(tmp_path / "before"))
    before = ShardSet.open(str(tmp_path / "before"))
    coco, yolo = below(s3_url, "coco"), below(s3_url, "yolo")
    export_coco(before, coco)
    source = read_coco(below(coco, "annotations.json"), below(coco, "images"))
    assert build_shard_set(source, str(tmp_path / "after")) == made
    export_yolo(before, yolo)
    assert sorted(image.id for image in read_yolo(below(yolo, "data.yaml"), "train").samples) == sorted(
        sample.id for sample in before
    )
    with pytest.raises(StorageError, match="not empty"):
        export_coco(before, coco)


def test_annotations_and_images_are_read_from_a_bucket(s3_url: str) -> None:
    store = open_store(s3_url)
    person = {"image": "a.jpg", "joints": [[9 + k, 50 - k] for k in range(16)], "joints_vis": [1] * 16}
    store.write("mpii/valid.json", json.dumps([person | {"center": [9, 9], "scale": 1}]).encode())
    store.write("mpii/images/a.jpg", picture())
    (sample,) = read_mpii(below(s3_url, "mpii/valid.json"), below(s3_url, "mpii/images")).samples
    assert sample.id == "a" and sample.people.keypoints_NK3[0, 0].tolist() == [8, 49, 2]
