"""Images of any size in, poses in their own pixels out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raypose.config.schema import TrainConfig
from raypose.errors import CheckpointError, ConfigError, DataError
from raypose.inference import ComputePrecision, Predictor, Views
from raypose.model import ExportMetadata, ModelSpec, build_model
from raypose.structures import ImageArray, Skeleton

SPEC = ModelSpec("yolo11n-pose", Skeleton(("head", "foot")), ("person",))


class RedSquareFinder:
    """A back end that reports the bounds of what is pure red, and remembers the canvases it was given."""

    device_type = "cpu"
    precision: Literal["float32"] = "float32"
    lanes = 1

    def __init__(self, *, dynamic: bool) -> None:
        self.metadata = ExportMetadata(SPEC, 64, dynamic=dynamic, end2end=True)
        self.images_a_call = 2 if dynamic else 1
        self.shapes: list[tuple[int, ...]] = []

    def twin(self) -> RedSquareFinder:
        return self

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


def predictor_over(backend: RedSquareFinder, views: Views = Views()) -> Predictor:  # noqa: B008 - frozen
    return Predictor(backend, 64, conf=0.5, iou=0.7, max_det=10, views=views)


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


def test_a_predictor_keeps_the_weights_of_its_day(model: nn.Module) -> None:
    image, bias = image_with_square(64, 64), model.model[-1].cv3[0][-1].bias
    predictor = Predictor.from_model(model, SPEC, 64, conf=0.0, max_det=1)
    (before,) = predictor.predict([image])
    with torch.no_grad():
        bias.add_(3.0)
    (after,) = predictor.predict([image])
    (today,) = Predictor.from_model(model, SPEC, 64, conf=0.0, max_det=1).predict([image])
    with torch.no_grad():
        bias.sub_(3.0)
    assert after.score_N[0] == before.score_N[0] < today.score_N[0]


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_twins_predict_at_the_same_time_what_each_would_alone(model: nn.Module, precision: ComputePrecision) -> None:
    """Each keeps the anchors of its own last canvas."""
    predictor = Predictor.from_model(model, SPEC, 64, conf=0.0, max_det=3, precision=precision)
    images = [image_with_square(*size) for size in SIZES * 4]
    twins = [predictor.twin() for _ in images]
    with ThreadPoolExecutor(len(twins), initializer=torch.set_num_threads, initargs=(1,)) as threads:
        together = list(threads.map(lambda twin, image: twin.predict([image])[0], twins, images))
    torch.set_num_threads(torch.get_num_threads())  # also for threads to come
    for image, found in zip(images, together, strict=True):
        (alone,) = predictor.predict([image])
        np.testing.assert_allclose(found.box_xyxy_N4, alone.box_xyxy_N4, atol=1e-3 if precision == "float32" else 0.5)


def test_a_mirrored_view_is_turned_back() -> None:
    image = image_with_square(128, 64)
    views = Views(flip_index=(1, 0))
    (poses,) = predictor_over(RedSquareFinder(dynamic=True), views).predict([image])
    np.testing.assert_allclose(poses.box_xyxy_N4, [[32, 16, 64, 32]], atol=0.01)
    # The finder's first keypoint is the left top of what it sees, which is the right top of the image, and of the other
    # side of the body; its second one lies far beyond the border.
    np.testing.assert_allclose(poses.keypoints_NK3[0, :, 0], [(32 + 128) / 2, (64 + 0) / 2], atol=0.01)


def test_every_scale_is_a_look_at_the_whole_image() -> None:
    backend = RedSquareFinder(dynamic=True)
    (poses,) = predictor_over(backend, Views((0.5, 1.0, 2.0))).predict([image_with_square(128, 128)])
    assert sorted(backend.shapes) == [(1, 32, 32, 3), (1, 64, 64, 3), (1, 128, 128, 3)]
    np.testing.assert_allclose(poses.box_xyxy_N4, [[32, 32, 64, 64]], atol=2)
    assert poses.score_N.tolist() == pytest.approx([0.9])


def test_a_static_model_has_one_scale() -> None:
    with pytest.raises(ConfigError, match="exported for imgsz 64 alone"):
        predictor_over(RedSquareFinder(dynamic=False), Views((0.5, 1.0)))


def test_bfloat16_where_it_would_be_emulated_is_refused(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypose.inference.backends.multiplies_bfloat16", lambda device_type: False)
    assert Predictor.from_model(model, SPEC, 64, precision="auto").precision == "float32"
    with pytest.raises(ConfigError, match="no native bfloat16"):
        Predictor.from_model(model, SPEC, 64, precision="bfloat16")


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
