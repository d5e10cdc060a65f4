"""What computes agrees with PyTorch in float32, or says why it was not taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raypose.config.serve_schema import ComputeConfig
from raypose.errors import ConfigError
from raypose.inference.backends import ComputeOptions, TorchBackend
from raypose.serve.compute import open_compute
from raypose.structures import ImageArray
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
