"""What raypose exports is what pycocotools and Ultralytics read."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_det_dataset

from raypose.data.build import build_shard_set
from raypose.data.exporters.coco import export_coco
from raypose.data.exporters.yolo import export_yolo
from raypose.data.importers.coco import read_coco
from raypose.data.shard_set import ShardSet

DATA = Path(__file__).parents[3] / "shared" / "data" / "coco-mini"
ANNOTATIONS = DATA / "annotations" / "person_keypoints_val2017.json"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not here")
    out = tmp_path_factory.mktemp("set") / "set"
    build_shard_set(read_coco(ANNOTATIONS, DATA / "val2017"), str(out))
    return ShardSet.open(str(out))


def scores(annotations: Path, by_name: dict[str, list[dict[str, object]]]) -> list[float]:
    """The ten numbers of COCO's keypoint evaluation, for results given by the names of images."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        rows = [row | {"image_id": image["id"]} for image in truth.imgs.values() for row in by_name[image["file_name"]]]
        evaluation = COCOeval(truth, truth.loadRes(rows), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def test_cocos_own_evaluation_gives_the_same_numbers_before_and_after(shards: ShardSet, tmp_path: Path) -> None:
    export_coco(shards, str(tmp_path))
    original = json.loads(ANNOTATIONS.read_text())
    names = {image["id"]: image["file_name"] for image in original["images"]}
    rng = np.random.default_rng(0)
    results: dict[str, list[dict[str, object]]] = {name: [] for name in names.values()}
    for person in original["annotations"]:
        points = np.array(person["keypoints"], float).reshape(-1, 3)
        x, y, width, height = person["bbox"]
        points[:, :2] = np.where(points[:, 2:] > 0, points[:, :2], [x + width / 2, y + height / 2])
        points += rng.normal(0, 4, points.shape)
        row = {"category_id": 1, "keypoints": points.ravel().tolist(), "score": float(rng.random())}
        results[names[person["image_id"]]].append(row)
    before, after = scores(ANNOTATIONS, results), scores(tmp_path / "annotations.json", results)
    assert 0.1 < before[0] < 0.9
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-12)


def test_ultralytics_loads_every_label(shards: ShardSet, tmp_path: Path) -> None:
    export_yolo(shards, str(tmp_path), val=shards)
    data = check_det_dataset(str(tmp_path / "data.yaml"))
    assert (data["kpt_shape"], data["kpt_oks_sigmas"]) == ([17, 3], list(shards.skeleton.sigmas or ()))
    data_set = YOLODataset(img_path=data["val"], data=data, task="pose", imgsz=64, augment=False)
    loaded = {Path(label["im_file"]).stem: label for label in data_set.get_labels()}
    assert loaded.keys() == {sample.id for sample in shards}
    for sample in shards:
        people, label = sample.people.select(~sample.people.ignore_N), loaded[sample.id]
        assert label["shape"] == (sample.height, sample.width) and len(label["cls"]) == len(people)
        # Ultralytics keeps the rows in the order of the file, without repeated ones.
        scale = np.array([sample.width, sample.height, 1.0])
        np.testing.assert_allclose(
            np.reshape(label["keypoints"], (-1, 17, 3)) * scale, people.keypoints_NK3, rtol=0, atol=1e-3
        )
