"""`ultralytics.YOLO("model.pt")` and raypose find the same people in the same places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from ultralytics import YOLO
from ultralytics.nn.tasks import torch_safe_load

import raypose
from raypose.batch import PredictPrecision
from raypose.config.schema import TrainConfig
from raypose.errors import ConfigError
from raypose.inference import Predictor
from raypose.inference.backends import ComputeOptions, TorchBackend
from raypose.model import ModelSpec, build_model, load_model, multiplies_bfloat16, portable_copy, write_portable
from raypose.structures import COCO_PERSON, ImageArray, Poses
from raypose.vision.draw import encode_png
from tests.parity.conftest import ModelFactory

TRAIN = TrainConfig(imgsz=256)


@pytest.fixture
def saved(spec: ModelSpec, lively_model: ModelFactory, tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    write_portable(portable_copy(lively_model(spec)), spec, TRAIN, path, epoch=3, metrics={"pose_ap": 0.5})
    return path


def assert_same(ours: Poses, theirs: Any, *, tolerance_px: float) -> None:
    assert len(ours) == len(theirs.boxes) > 3
    np.testing.assert_allclose(ours.score_N, theirs.boxes.conf.numpy(), atol=1e-5)
    np.testing.assert_allclose(ours.box_xyxy_N4, theirs.boxes.xyxy.numpy(), atol=tolerance_px)
    np.testing.assert_allclose(ours.keypoints_NK3, theirs.keypoints.data.numpy(), atol=tolerance_px)


@pytest.mark.parametrize("nms_free", [False, True], ids=["nms", "nms_free"])
def test_a_saved_model_predicts_in_ultralytics_what_it_predicts_here(
    saved: Path, spec: ModelSpec, picture: ImageArray, nms_free: bool
) -> None:
    if nms_free and not spec.architecture.startswith("yolo26"):
        pytest.skip("only yolo26 has a head without suppression")
    predictor = Predictor.load(saved, device="cpu", conf=0.5, iou=0.5, max_det=50, nms_free=nms_free)
    (ours,) = predictor.predict([picture])
    options = {"nms": False} if nms_free else {}
    (theirs,) = YOLO(saved).predict(
        picture[..., ::-1], imgsz=256, conf=0.5, iou=0.5, max_det=50, device="cpu", verbose=False, **options
    )
    assert_same(ours, theirs, tolerance_px=1e-4)


def test_a_live_model_predicts_as_its_saved_file_does(
    saved: Path, spec: ModelSpec, lively_model: ModelFactory, picture: ImageArray
) -> None:
    (live,) = Predictor.from_model(lively_model(spec), spec, 256, conf=0.5).predict([picture])
    (theirs,) = YOLO(saved).predict(picture[..., ::-1], imgsz=256, conf=0.5, device="cpu", verbose=False)
    assert_same(live, theirs, tolerance_px=1e-4)


def test_bfloat16_moves_nobody_by_half_a_pixel() -> None:
    """Up to the far corner of a large image: positions are float32, only layers are not.

    Decoded in bfloat16, what lies beyond 256 px would move in steps of 2 px, beyond 512 px of 4.
    """
    if not multiplies_bfloat16("cpu"):
        pytest.skip("this CPU has no native bfloat16 arithmetic")
    spec = ModelSpec("yolo11n-pose", COCO_PERSON, ("person",))
    model = build_model(spec, TrainConfig(), seed=0)
    canvas_BHW3 = np.random.default_rng(0).integers(0, 256, (1, 640, 640, 3), dtype=np.uint8)
    exact_CA, rounded_CA = (
        TorchBackend.of_copy(model, spec, 640, ComputeOptions("cpu", precision))(canvas_BHW3)[0]
        for precision in ("float32", "bfloat16")
    )
    assert exact_CA[0].max() > 600
    torch.testing.assert_close(rounded_CA[:4], exact_CA[:4], rtol=0, atol=0.5)
    torch.testing.assert_close(rounded_CA[4], exact_CA[4], rtol=0, atol=0.01)
    torch.testing.assert_close(rounded_CA[5:], exact_CA[5:], rtol=0, atol=0.5)


def test_a_folder_is_predicted_in_bfloat16_where_that_is_asked_for(
    saved: Path, picture: ImageArray, tmp_path: Path
) -> None:
    if not multiplies_bfloat16("cpu"):
        pytest.skip("this CPU has no native bfloat16 arithmetic")
    photo = tmp_path / "photo.png"
    photo.write_bytes(encode_png(picture))
    people = {}
    for precision in get_args(PredictPrecision):
        raypose.predict(saved, photo, tmp_path / precision, device="cpu", precision=precision, pictures=False, conf=0.4)
        (part,) = (tmp_path / precision / "predictions").iterdir()
        people[precision] = json.loads(part.read_text())["people"]
    exact, rounded = people["float32"], people["bfloat16"]
    assert rounded != exact
    sure = [person for person in exact if person["score"] > 0.5]
    assert sure
    for person in sure:
        nearest = min(rounded, key=lambda other: np.abs(np.subtract(other["box"], person["box"])).max())
        assert nearest["score"] == pytest.approx(person["score"], abs=0.05)
        assert nearest["box"] == pytest.approx(person["box"], abs=3)


def test_bfloat16_is_refused_where_it_would_be_emulated(
    saved: Path, picture: ImageArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypose.inference.backends.multiplies_bfloat16", lambda device_type: False)
    photo = tmp_path / "photo.png"
    photo.write_bytes(encode_png(picture))
    with pytest.raises(ConfigError, match="no native bfloat16"):
        raypose.predict(saved, photo, tmp_path / "out", device="cpu", precision="bfloat16")
    assert not (tmp_path / "out").exists()


def test_the_allow_list_loader_of_ultralytics_accepts_a_saved_model(saved: Path, spec: ModelSpec) -> None:
    content, _ = torch_safe_load(saved, safe_only=True)
    assert content["model"].kpt_shape == [spec.skeleton.keypoints, 3]
    assert content["epoch"] == 3
    assert content["train_metrics"] == {"pose_ap": 0.5}
    assert all(weight.dtype == torch.float32 for weight in content["model"].parameters())


def test_a_model_trained_by_ultralytics_alone_can_be_loaded(saved: Path, spec: ModelSpec, tmp_path: Path) -> None:
    content, _ = torch_safe_load(saved, safe_only=True)
    foreign = tmp_path / "foreign.pt"
    torch.save({key: value for key, value in content.items() if key != "raypose"}, foreign)
    model, described, imgsz = load_model(foreign)
    assert (described.architecture, described.class_names, imgsz) == (spec.architecture, spec.class_names, 256)
    assert described.skeleton.names == spec.skeleton.names
    expected = content["model"].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
