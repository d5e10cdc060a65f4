"""Exported models give the keypoints of the PyTorch model, to a hundredth of a pixel."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from raypose.errors import ConfigError
from raypose.inference import ComputePrecision, Predictor
from raypose.inference.backends import ComputeOptions, TorchBackend
from raypose.model import ExportFormat, ModelSpec, export_model, multiplies_bfloat16
from raypose.structures import COCO_PERSON, ImageArray
from tests.parity.conftest import LSP_LIKE, ModelFactory

DENSE = ModelSpec("yolo11n-pose", LSP_LIKE, ("person", "dog"))
END2END = ModelSpec("yolo26n-pose", COCO_PERSON, ("person",))
NAMES: dict[ExportFormat, str] = {"onnx": "m.onnx", "openvino": "m_openvino", "torchscript": "m.torchscript"}


CASES = {"dense_static": (DENSE, False), "dense_dynamic": (DENSE, True), "end2end": (END2END, False)}


@pytest.mark.parametrize(
    ("format_name", "case"),
    [
        ("onnx", "dense_static"),
        ("onnx", "dense_dynamic"),
        ("onnx", "end2end"),
        ("openvino", "dense_dynamic"),
        ("openvino", "end2end"),
        ("torchscript", "dense_static"),
        ("torchscript", "dense_dynamic"),
    ],
)
def test_an_exported_model_finds_the_same_keypoints(
    format_name: ExportFormat, case: str, lively_model: ModelFactory, picture: ImageArray, tmp_path: Path
) -> None:
    model_spec, dynamic = CASES[case]
    nms_free = model_spec is END2END
    model = lively_model(model_spec)
    target = tmp_path / NAMES[format_name]
    export_model(model, model_spec, 256, format_name, target, dynamic=dynamic, nms_free=nms_free)
    exported = Predictor.load(target, device="cpu", conf=0.5)
    assert (exported.spec, exported.imgsz) == (model_spec, 256)
    original = Predictor.from_model(model, model_spec, 256, conf=0.5, nms_free=nms_free)
    # A static model sees a square canvas, so its picture is square for both.
    images = [picture, picture[:, ::-1].copy()] if dynamic else [picture[:200, :200].copy()]
    for ours, theirs in zip(exported.predict(images), original.predict(images), strict=True):
        assert len(ours) == len(theirs) > 3
        np.testing.assert_allclose(ours.box_xyxy_N4, theirs.box_xyxy_N4, atol=0.01)
        np.testing.assert_allclose(ours.keypoints_NK3, theirs.keypoints_NK3, atol=0.01)
        np.testing.assert_array_equal(ours.class_N, theirs.class_N)


@pytest.mark.parametrize(("model_spec", "nms_free"), [(DENSE, False), (END2END, False), (END2END, True)])
def test_openvino_is_told_which_layers_stay_float32(
    model_spec: ModelSpec, nms_free: bool, lively_model: ModelFactory, tmp_path: Path
) -> None:
    """Every convolution of the first layers and of the branch for scores, and none of the others."""
    export_model(lively_model(model_spec), model_spec, 256, "openvino", tmp_path / "m", dynamic=True, nms_free=nms_free)
    marked = {
        str(operation.get("name")): operation.find("rt_info/attribute[@name='precise']") is not None
        for operation in ElementTree.parse(tmp_path / "m/model.xml").iter("layer")
        if operation.get("type") in ("Convolution", "GroupConvolution")
    }
    wanted = re.compile(r"__module\.model\.([01]|23\.(one2one_)?cv3)\.")
    assert sum(marked.values()) > 6
    assert marked == {name: wanted.match(name) is not None for name in marked}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("model_spec", "nms_free"), [(DENSE, False), (END2END, False), (END2END, True)])
def test_what_computes_in_bfloat16_are_the_other_layers(
    model_spec: ModelSpec, nms_free: bool, precision: ComputePrecision, lively_model: ModelFactory
) -> None:
    if precision == "bfloat16" and not multiplies_bfloat16("cpu"):
        pytest.skip("this CPU has no bfloat16 arithmetic (avx512_bf16 or amx)")
    options = ComputeOptions("cpu", precision, nms_free=nms_free)
    backend = TorchBackend.of_copy(lively_model(model_spec), model_spec, 256, options)
    exact = re.compile(r"model\.([01]|23\.(one2one_)?cv3|23\.dfl)\.")
    for name, parameter in backend._module.named_parameters():
        if "flow_model" not in name:
            rounded = precision == "bfloat16" and exact.match(name) is None
            assert parameter.dtype == (torch.bfloat16 if rounded else torch.float32), name
    assert backend.precision == precision
    assert torch.isfinite(backend(np.zeros((1, 64, 64, 3), np.uint8))).all()


def test_a_head_that_the_architecture_lacks_is_refused(lively_model: ModelFactory, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only yolo26"):
        export_model(lively_model(DENSE), DENSE, 256, "onnx", tmp_path / "m.onnx", nms_free=True)


def test_a_static_export_refuses_another_image_size(lively_model: ModelFactory, tmp_path: Path) -> None:
    path = export_model(lively_model(DENSE), DENSE, 256, "torchscript", tmp_path / "m.torchscript")
    with pytest.raises(ConfigError, match="exported for imgsz 256"):
        Predictor.load(path, 320)
