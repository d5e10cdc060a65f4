"""What computes agrees with PyTorch in float32, or says why it was not taken."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raypose.config.serve_schema import ComputeConfig
from raypose.errors import CheckpointError, ConfigError
from raypose.inference.backends import ComputeOptions, TorchBackend
from raypose.serve.compute import open_compute
from raypose.serve.loading import TimedBackend
from raypose.structures import ImageArray
from tests.far_tensor import FarTensor
from tests.served_run import weights_file


class Spoilt(TorchBackend):
    """A back end whose arithmetic overflows in one number of a test image."""

    value = torch.nan

    def __call__(self, canvas_BHW3: ImageArray) -> Tensor:
        output = super().__call__(canvas_BHW3).clone()
        output[0, -1, -1] = self.value
        return output


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_back_end_whose_output_is_not_finite_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    weights = tmp_path / "model.pt"
    weights_file(weights, seed=0)
    monkeypatch.setattr(Spoilt, "value", value)

    def opened(*_: Any) -> TorchBackend:
        return Spoilt.load(weights, ComputeOptions("cpu", "float32"))

    monkeypatch.setattr("raypose.serve.compute._opened", opened)
    config = ComputeConfig(backend="torch", precision="bfloat16", device="cpu", imgsz=64)
    with pytest.raises(ConfigError, match="torch bfloat16: its output on a test image is not finite"):
        open_compute(weights, config, tmp_path)


class OwnRuntimeError(Exception):
    """As ONNX Runtime raises: of no common base."""


def opened_beside(failure: Exception) -> Any:
    def opened(*_: Any) -> TorchBackend:
        raise failure

    return opened


@pytest.mark.parametrize("failure", [OwnRuntimeError("no kernel\nat line 5"), CheckpointError("not an OpenVINO model")])
def test_a_back_end_that_fails_in_its_own_way_leaves_those_that_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    weights = tmp_path / "model.pt"
    weights_file(weights, seed=0)
    monkeypatch.setattr("raypose.serve.compute._is_installed", lambda kind, _: kind in ("torch", "onnx"))
    monkeypatch.setattr("raypose.serve.compute._opened", opened_beside(failure))
    config = ComputeConfig(precision="float32", device="cpu", imgsz=64)
    first, second = open_compute(weights, config, tmp_path).trials
    assert (first.name, second.name) == ("torch float32", "onnx float32")
    assert second.refusal == f"fails: {str(failure).splitlines()[0]}"


def test_a_disk_that_is_full_says_nothing_about_a_back_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "model.pt"
    weights_file(weights, seed=0)
    monkeypatch.setattr("raypose.serve.compute._is_installed", lambda kind, _: kind in ("torch", "onnx"))
    monkeypatch.setattr("raypose.serve.compute._opened", opened_beside(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        open_compute(weights, ComputeConfig(precision="float32", device="cpu", imgsz=64), tmp_path)


class Far(TorchBackend):
    """A back end whose output stays on its device."""

    def __call__(self, canvas_BHW3: ImageArray) -> Tensor:
        return super().__call__(canvas_BHW3).as_subclass(FarTensor)


def test_outputs_on_a_device_are_compared_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "model.pt"
    weights_file(weights, seed=0)
    monkeypatch.setattr("raypose.serve.compute.TorchBackend", Far)
    config = ComputeConfig(backend="torch", precision="float32", device="cpu", imgsz=64)
    assert [trial.refusal for trial in open_compute(weights, config, tmp_path).trials] == [""]


class Late(Tensor):
    """Numbers that are there only some time after the call that makes them."""

    def item(self) -> float:
        time.sleep(0.05)
        return 0.0


def test_the_time_of_a_call_ends_when_its_numbers_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "model.pt"
    weights_file(weights, seed=0)
    backend = TorchBackend.load(weights, ComputeOptions("cpu", "float32"))
    monkeypatch.setattr(TorchBackend, "__call__", lambda *_: torch.zeros(1, 3).as_subclass(Late))
    timed = TimedBackend(backend)
    timed(np.zeros((1, 64, 64, 3), np.uint8))
    assert timed.call_s >= 0.05
