"""A small workplace with everything that commands take, sound, for tests to spoil: one copy for each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from raypose.checkpoint import CheckpointStore, Snapshot, TrainProgress
from raypose.config import dump_config, load_config
from raypose.data.build import build_shard_set
from raypose.data.importers import source_of
from raypose.data.importers.folder import write_folder
from raypose.data.shard_set import ShardSet
from raypose.data.synth import synthesize
from raypose.storage import open_store
from raypose.structures import COCO_PERSON, Sample, Skeleton

SAMPLES, SIZE_PX = 6, 96
RUN = {
    "name": "new",
    "data": {"train": "train", "val": "val"},
    "train": {"epochs": 1, "batch": 4, "imgsz": 64},
}


@pytest.fixture(scope="session")
def sound_workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`people` (images and labels), `coco.json`, `yolo`, shard sets `train` and `val`, `run.yaml`, `runs/begun`."""
    root = tmp_path_factory.mktemp("sound")
    samples = list(synthesize(SAMPLES, seed=3, size_px=SIZE_PX))
    assert len(samples[0].people) > 0  # the label that tests spoil
    write_folder(samples, COCO_PERSON, ("person",), root / "people")
    for name, part in (("train", samples), ("val", samples[:2])):
        build_shard_set(source_of(part, COCO_PERSON, ("person",)), str(root / name))
    (root / "coco.json").write_text(json.dumps(_coco_json(samples)))
    _write_yolo(samples, root / "yolo")
    (root / "run.yaml").write_text(yaml.safe_dump(RUN))
    _begin_run(root)
    return root


@pytest.fixture
def workplace(sound_workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil, as the current folder."""
    root = tmp_path / "work"
    shutil.copytree(sound_workplace, root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="session")
def hand_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained model with three keypoints, which no data here has."""
    from raypose.checkpoint import RunIdentity
    from raypose.config.schema import TrainConfig
    from raypose.model import ModelSpec, build_model

    skeleton = Skeleton(("wrist", "thumb", "finger"))
    model = build_model(ModelSpec("yolo11n-pose", skeleton, ("hand",)), TrainConfig(), seed=0)
    identity = RunIdentity("yolo11n-pose", skeleton, ("hand",), 64, "recipe", "data")
    tensors = {f"ema.{name}": tensor for name, tensor in model.state_dict().items()}
    store = open_store(str(tmp_path_factory.mktemp("hands")))
    saved = CheckpointStore(store).save(Snapshot(identity, TrainProgress(step=1), tensors, {}), _no_weights)
    return Path(CheckpointStore(store).place(saved))


def _begin_run(root: Path) -> None:
    """A run with a checkpoint that says which run it is; its tensors do not matter where nothing reads them."""
    from raypose.engine.setup import identity_of

    config = load_config(root / "run.yaml", ["name=begun"])
    identity = identity_of(config, ShardSet.open(str(root / "train")))
    store = open_store(str(root / "runs" / "begun"))
    store.write("config.yaml", dump_config(config).encode())
    CheckpointStore(store).save(Snapshot(identity, TrainProgress(step=1), {}, {"pose_ap": 0.5}), _no_weights)


def _no_weights(path: Path) -> None:
    path.write_bytes(b"")


def _coco_json(samples: list[Sample]) -> dict[str, Any]:
    people: list[dict[str, Any]] = []
    for number, sample in enumerate(samples):
        for box, keypoints in zip(sample.people.box_xyxy_N4, sample.people.keypoints_NK3, strict=True):
            corner, size = box[:2].tolist(), (box[2:] - box[:2]).tolist()
            person = {"image_id": number, "category_id": 1, "bbox": corner + size, "iscrowd": 0}
            people.append({"id": len(people) + 1, **person, "keypoints": keypoints.ravel().tolist()})
    return {
        "images": [{"id": number, "file_name": f"{sample.id}.jpg"} for number, sample in enumerate(samples)],
        "annotations": people,
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_PERSON.names)}],
    }


def _write_yolo(samples: list[Sample], folder: Path) -> None:
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    row = " ".join(["0", "0.5 0.5 0.4 0.4", *["0.5 0.5 2"] * COCO_PERSON.keypoints])
    for sample in samples:
        (folder / "images/train" / f"{sample.id}.jpg").write_bytes(sample.image)
        (folder / "labels/train" / f"{sample.id}.txt").write_text(row)
    settings = {
        "train": "images/train",
        "names": ["person"],
        "kpt_shape": [COCO_PERSON.keypoints, 3],
        "flip_idx": list(COCO_PERSON.flip_index),
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(settings))
