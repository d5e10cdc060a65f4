"""What a service computes with agrees with PyTorch in float32, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raypose.config.schema import TrainConfig
from raypose.config.serve_schema import ComputeConfig
from raypose.errors import ConfigError
from raypose.model import ModelSpec, portable_copy, write_portable
from raypose.serve.compute import Kind, describe, open_compute
from tests.parity.conftest import LSP_LIKE, ModelFactory

SPEC = ModelSpec("yolo11n-pose", LSP_LIKE, ("person",))


@pytest.fixture(scope="module")
def weights(lively_model: ModelFactory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compute") / "m.pt"
    write_portable(portable_copy(lively_model(SPEC)), SPEC, TrainConfig(imgsz=256), path, epoch=0, metrics={})
    return path


@pytest.mark.parametrize(
    "kind", ["torch", "onnx", "openvino", pytest.param("tensorrt", marks=[pytest.mark.gpu, pytest.mark.slow])]
)
def test_a_back_end_agrees_with_pytorch(kind: Kind, weights: Path, tmp_path: Path) -> None:
    if kind == "tensorrt" and not torch.cuda.is_available():
        pytest.skip("TensorRT needs a CUDA device")
    compute = open_compute(weights, ComputeConfig(backend=kind, precision="float32"), tmp_path)
    assert compute.name == f"{kind} float32"
    deviation = compute.trials[0].deviation
    assert deviation is not None
    assert deviation.keypoint_px <= 0.5
    assert deviation.score <= 0.01


def test_the_fastest_of_those_that_agree_is_taken(weights: Path, tmp_path: Path) -> None:
    config = ComputeConfig(device="cpu", precision="float32")
    compute = open_compute(weights, config, tmp_path)
    assert {trial.name for trial in compute.trials} == {"torch float32", "onnx float32", "openvino float32"}
    assert compute.trials[0].ms_per_image == min(trial.ms_per_image for trial in compute.trials)
    assert len(describe(compute.trials)) == 3


def test_one_that_differs_is_refused_with_by_how_much(weights: Path, tmp_path: Path) -> None:
    config = ComputeConfig(backend="openvino", precision="float32", device="cpu", keypoint_tolerance_px=1e-9)
    with pytest.raises(ConfigError, match=r"openvino float32: differs from float32 PyTorch by .* px"):
        open_compute(weights, config, tmp_path)


def test_tensorrt_without_a_gpu_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TensorRT computes on NVIDIA GPUs"):
        open_compute(weights, ComputeConfig(backend="tensorrt", device="cpu"), tmp_path)
