"""Runs, checkpoints, weights and predictions that live in a bucket."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import raypose
from raypose import api
from raypose.batch import open_source
from raypose.checkpoint import CheckpointStore, RunIdentity, Snapshot, TrainProgress, local_model, locate_model, run_of
from raypose.config import RunConfig, TrainConfig, dump_config, load_config
from raypose.errors import CheckpointError, ConfigError, DataError
from raypose.model import ExportFormat, ModelSpec, build_model, load_pretrained, portable_copy, write_portable
from raypose.storage import ObjectStore, open_store
from raypose.structures import Skeleton
from raypose.vision.video import VideoFile
from tests.s3.conftest import below

HANDS = Skeleton(("left_hand", "right_hand", "bell"), flip_pairs=((0, 1),))
SPEC = ModelSpec("yolo11n-pose", HANDS, ("ringer",))
BEST, LAST = "step-00000001", "step-00000002"


def fill(run: ObjectStore, config: RunConfig) -> None:
    """A run of two checkpoints, of which the first is better, as training leaves it."""
    run.write("config.yaml", dump_config(config).encode())
    identity = RunIdentity(SPEC.architecture, HANDS, SPEC.class_names, 64, "recipe", "data")
    for step, pose_ap in ((1, 0.5), (2, 0.25)):
        model = portable_copy(build_model(SPEC, TrainConfig(), seed=step))
        tensors = {f"ema.{name}": tensor for name, tensor in model.state_dict().items()}
        snapshot = Snapshot(identity, TrainProgress(step=step), tensors, {"pose_ap": pose_ap})
        saved = CheckpointStore(run).save(
            snapshot,
            lambda path, model=model: write_portable(model, SPEC, TrainConfig(imgsz=64), path, epoch=0, metrics={}),
        )
        if saved.name == BEST:
            CheckpointStore(run).copy_model(saved, run, "weights/best.pt")


@pytest.fixture(scope="module")
def s3_endpoint(moto_endpoint: str) -> str:
    """One server is enough here: both hold to the contract of stores."""
    return moto_endpoint


@pytest.fixture(scope="module")
def local_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    fill(open_store(str(folder)), load_config(None, ["data.train=t", "data.val=v", "train.imgsz=64", "name=demo"]))
    return folder


@pytest.fixture
def run_url(s3_url: str, local_run: Path) -> str:
    """The same run in a bucket."""
    url = below(s3_url, "demo")
    store = open_store(url)
    for entry in open_store(str(local_run)).list():
        store.upload(local_run / entry.key, entry.key)
    return url


def weights_of(model: torch.nn.Module) -> torch.Tensor:
    return next(iter(model.parameters()))


def test_a_run_stands_for_its_best_or_last_checkpoint_and_all_else_for_itself(s3_url: str, run_url: str) -> None:
    assert locate_model(run_url) == below(run_url, f"checkpoints/{BEST}")
    assert locate_model(run_url, "last") == below(run_url, f"checkpoints/{LAST}")
    for key in (f"checkpoints/{LAST}", f"checkpoints/{LAST}/model.pt", "weights/best.pt"):
        assert locate_model(below(run_url, key)) == below(run_url, key)
    with pytest.raises(CheckpointError, match="neither a run"):
        locate_model(s3_url)
    with pytest.raises(CheckpointError, match="no such run, checkpoint or weights file"):
        locate_model(below(s3_url, "other"))


def test_weights_alone_stand_for_a_run_whose_checkpoints_are_gone(run_url: str) -> None:
    store = open_store(run_url)
    store.delete([entry.key for entry in store.list("checkpoints/")])
    assert locate_model(run_url) == below(run_url, "weights/best.pt")


def test_everything_below_a_run_knows_its_run(run_url: str, s3_url: str) -> None:
    for key in ("", f"checkpoints/{BEST}", f"checkpoints/{BEST}/model.pt", "weights/best.pt"):
        run = run_of(below(run_url, key))
        assert run is not None
        assert run.url == run_url
    assert run_of(below(s3_url, "elsewhere/entirely")) is None


@pytest.mark.parametrize("key", ["", f"checkpoints/{BEST}", f"checkpoints/{BEST}/state.safetensors", "weights/best.pt"])
def test_a_model_from_a_bucket_is_the_model_of_the_folder(run_url: str, local_run: Path, key: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    here, there = (raypose.load(place, conf=0.0, max_det=5, device="cpu") for place in (local_run, below(run_url, key)))
    assert there.spec == here.spec
    expected, found = here.predict([image])[0], there.predict([image])[0]
    np.testing.assert_allclose(found.keypoints_NK3, expected.keypoints_NK3, atol=1e-4)


def test_what_was_fetched_is_gone_afterwards(run_url: str) -> None:
    with local_model(run_url) as path:
        assert sorted(file.name for file in path.iterdir()) == ["state.json", "state.safetensors"]
    assert not path.parent.exists()


def test_a_damaged_checkpoint_is_named_and_not_loaded(run_url: str) -> None:
    key = f"checkpoints/{BEST}/state.safetensors"
    content = bytearray(open_store(run_url).read(key))
    content[-1] ^= 1
    open_store(run_url).write(key, bytes(content))
    with pytest.raises(CheckpointError, match=r"state\.safetensors.*sha256"):
        raypose.load(run_url)


def test_training_starts_from_weights_in_a_bucket(run_url: str) -> None:
    model = build_model(SPEC, TrainConfig(), seed=9)
    with local_model(run_url) as path:
        report = load_pretrained(model, path, named=run_url)
    assert torch.equal(weights_of(model), weights_of(build_model(SPEC, TrainConfig(), seed=1)))
    assert str(report).startswith(run_url)


@pytest.mark.parametrize(("to", "name"), [("torchscript", "hands.torchscript"), ("openvino", "hands_openvino")])
def test_an_export_goes_to_a_bucket_and_predicts_from_there(
    run_url: str, s3_url: str, to: ExportFormat, name: str
) -> None:
    where = api.export(run_url, to=to, out=below(s3_url, name))
    assert where == below(s3_url, name)
    image = np.zeros((64, 64, 3), np.uint8)
    exported, original = (raypose.load(place, conf=0.0, max_det=3, device="cpu") for place in (where, run_url))
    expected, found = original.predict([image])[0], exported.predict([image])[0]
    np.testing.assert_allclose(found.keypoints_NK3, expected.keypoints_NK3, atol=1e-2)


def test_an_export_of_a_local_run_lies_where_no_retired_checkpoint_takes_it_along(local_run: Path) -> None:
    for model, written in ((local_run, "best"), (local_run / "checkpoints" / LAST, LAST)):
        place = local_run / "weights" / f"{written}.torchscript"
        assert api.export(model, to="torchscript") == str(place)
        assert place.is_file()
    assert Path(locate_model(local_run)).name == BEST  # exports are no weights of the run


def test_an_export_from_a_bucket_goes_to_the_current_folder(
    run_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert api.export(run_url, to="torchscript") == "demo.torchscript"
    assert (tmp_path / "demo.torchscript").is_file()


def test_a_run_in_a_bucket_is_resumed_where_it_lies(run_url: str, s3_url: str) -> None:
    config = api.run_config(run_url, ["train.epochs=7"])
    assert (config.storage, config.name, config.train.epochs) == (s3_url, "demo", 7)
    with pytest.raises(ConfigError, match="keeps its name and storage"):
        api.run_config(run_url, ["storage=elsewhere"])
    with pytest.raises(CheckpointError, match="no run there"):
        api.run_config(s3_url)


def test_the_configuration_that_a_run_keeps_holds_its_url_and_no_secret(s3_url: str) -> None:
    config = load_config(None, ["data.train=t", "data.val=v", f"storage={s3_url}", "name=demo"])
    store = open_store(config.storage).child(config.name)
    fill(store, config)
    assert api.run_config(store.url) == config
    for entry in store.list():
        assert b"raypose-secret" not in store.read(entry.key), entry.key


def test_images_are_predicted_from_a_bucket_into_a_bucket(s3_url: str, local_run: Path) -> None:
    store = open_store(s3_url)
    for name in ("b.png", "a/one.jpg", ".hidden.png", "notes.txt"):
        encoded = cv2.imencode(
            Path(name).suffix if "." in name[1:] and "txt" not in name else ".png", np.zeros((32, 48, 3), np.uint8)
        )
        store.write(f"in/{name}", encoded[1].tobytes())
    store.write("in/c.jpg", b"no image")
    source, out = below(s3_url, "in"), below(s3_url, "out")
    summary = raypose.predict(local_run, source, out, device="cpu")
    assert (summary.images, summary.failed) == (2, 1)
    assert below(s3_url, "in/c.jpg") in summary.failures[0]
    rows = [json.loads(line) for line in store.read("out/predictions/part-000000.jsonl").splitlines()]
    assert [row["file"] for row in rows] == ["a/one.jpg", "b.png", "c.jpg"]
    assert [entry.key for entry in store.list("out/pictures/")] == ["out/pictures/a/one.jpg", "out/pictures/b.png.jpg"]
    assert raypose.predict(local_run, source, out, device="cpu").resumed == 3
    assert raypose.predict(local_run, below(s3_url, "in/b.png"), below(s3_url, "one"), device="cpu").images == 1
    store.write("new/pictures/a.jpg", b"no image")
    with pytest.raises(DataError, match="overwrite"):
        raypose.predict(local_run, below(s3_url, "new/pictures"), below(s3_url, "new"), device="cpu")
    with pytest.raises(DataError, match="no such object"):
        open_source(below(s3_url, "nothing"))


def test_a_video_is_predicted_from_a_bucket_into_a_bucket(s3_url: str, local_run: Path, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for value in range(5):
        writer.write(np.full((48, 64, 3), value * 40, np.uint8))
    writer.release()
    open_store(s3_url).upload(tmp_path / "clip.mp4", "clip.mp4")
    clip, out = below(s3_url, "clip.mp4"), below(s3_url, "out")
    assert raypose.predict(local_run, clip, out, device="cpu").images == 5
    open_store(out).download("pictures/clip.mp4", tmp_path / "drawn.mp4")
    assert len(list(VideoFile.open(tmp_path / "drawn.mp4", "drawn").frames())) == 5
