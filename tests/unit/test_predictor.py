"""Images of any size in, poses in their own pixels out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raypose.config.schema import TrainConfig
from raypose.errors import CheckpointError, ConfigError, DataError
from raypose.inference import Predictor
from raypose.model import ExportMetadata, ModelSpec, build_model
from raypose.structures import ImageArray, Skeleton

SPEC = ModelSpec("yolo11n-pose", Skeleton(("head", "foot")), ("person",))


class RedSquareFinder:
    """A back end that reports the bounds of what is pure red, and remembers the canvases it was given."""

    def __init__(self, *, dynamic: bool) -> None:
        self.metadata = ExportMetadata(SPEC, 64, dynamic=dynamic, end2end=True)
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, canvas_BHW3: ImageArray) -> Tensor:
        self.shapes.append(canvas_BHW3.shape)
        return torch.stack([self._row(canvas) for canvas in canvas_BHW3])

    def _row(self, canvas: ImageArray) -> Tensor:
        ys, xs = np.nonzero((canvas == (255, 0, 0)).all(axis=2))
        x1, y1, x2, y2 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        return torch.tensor([[x1, y1, x2, y2, 0.9, 0, x1, y1, 0.8, -500, 9999, 0.7]], dtype=torch.float32)


def image_with_square(width: int, height: int) -> ImageArray:
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 4 : height // 2, width // 4 : width // 2] = (255, 0, 0)
    return image


def predictor_over(backend: RedSquareFinder) -> Predictor:
    return Predictor(backend, 64, conf=0.5, iou=0.7, max_det=10)


SIZES = [(64, 64), (128, 64), (64, 128), (128, 64), (256, 192)]


@pytest.mark.parametrize("dynamic", [True, False])
def test_each_image_gets_its_own_poses_in_its_own_pixels(dynamic: bool) -> None:
    images = [image_with_square(*size) for size in SIZES]
    for (width, height), poses in zip(
        SIZES, predictor_over(RedSquareFinder(dynamic=dynamic)).predict(images), strict=True
    ):
        expected = [width // 4, height // 4, width // 2, height // 2]
        np.testing.assert_allclose(poses.box_xyxy_N4, [expected], atol=width / 64 + 1e-3)
        np.testing.assert_allclose(poses.keypoints_NK3[0, 0, :2], poses.box_xyxy_N4[0, :2])


def test_keypoints_outside_the_image_move_to_its_border() -> None:
    (poses,) = predictor_over(RedSquareFinder(dynamic=True)).predict([image_with_square(128, 64)])
    np.testing.assert_allclose(poses.keypoints_NK3[0, 1], [0.0, 64.0, 0.7])


def test_images_that_fill_the_same_canvas_go_through_the_model_together() -> None:
    backend = RedSquareFinder(dynamic=True)
    predictor_over(backend).predict([image_with_square(*size) for size in SIZES])
    assert sorted(backend.shapes) == [(1, 64, 32, 3), (2, 32, 64, 3), (2, 64, 64, 3)]


def test_a_static_model_sees_one_square_canvas_at_a_time() -> None:
    backend = RedSquareFinder(dynamic=False)
    predictor_over(backend).predict([image_with_square(*size) for size in SIZES])
    assert backend.shapes == [(1, 64, 64, 3)] * len(SIZES)


def test_no_images_give_no_poses() -> None:
    assert predictor_over(RedSquareFinder(dynamic=True)).predict([]) == []


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
    ids=["grey", "rgba", "float", "empty"],
)
def test_what_is_no_rgb_image_is_refused(image: ImageArray) -> None:
    with pytest.raises(DataError, match="image 0"):
        predictor_over(RedSquareFinder(dynamic=True)).predict([image])


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_model(SPEC, TrainConfig(), seed=0)


def test_predicting_leaves_a_model_in_training_as_it_was(model: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Predictor.from_model(model, SPEC, 64, conf=0.0).predict([image_with_square(64, 64)])
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_predictor_follows_weights_that_change_in_place(model: nn.Module) -> None:
    predictor = Predictor.from_model(model, SPEC, 64, conf=0.0, max_det=1)
    image = image_with_square(64, 64)
    (before,) = predictor.predict([image])
    bias = model.model[-1].cv3[0][-1].bias
    with torch.no_grad():
        bias.add_(3.0)
    (after,) = predictor.predict([image])
    assert after.score_N[0] > before.score_N[0]


def test_a_head_without_suppression_is_refused_where_there_is_none(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match="nms_free"):
        Predictor.from_model(model, SPEC, 64, nms_free=True)


@pytest.mark.parametrize("imgsz", [0, 100])
def test_an_image_size_that_is_no_multiple_of_the_stride_is_refused(model: nn.Module, imgsz: int) -> None:
    with pytest.raises(ConfigError, match="multiple of 32"):
        Predictor.from_model(model, SPEC, imgsz)


def test_a_missing_model_is_a_checkpoint_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.onnx: no such model"):
        Predictor.load(tmp_path_factory.mktemp("models") / "nowhere.onnx")


@pytest.mark.parametrize("name", ["model.onnx", "model.torchscript"])
def test_a_file_that_is_no_exported_model_is_a_checkpoint_error(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("models") / name
    path.write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="not a"):
        Predictor.load(path, device="cpu")
