"""What ONNX Runtime is told where there are GPUs, and what becomes of it that finds less than it was built for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raypose.errors import ConfigError
from raypose.inference.backends import ComputeOptions, OnnxBackend, TensorRtProfile
from raypose.model import ExportMetadata, ModelSpec
from raypose.model.export import METADATA
from raypose.structures import COCO_PERSON

SPEC = ModelSpec("yolo11n-pose", COCO_PERSON, ("person",))
CUDA, CPU, TENSORRT = "CUDAExecutionProvider", "CPUExecutionProvider", "TensorrtExecutionProvider"


class Runtime:
    """An onnxruntime that was built for `built_for`, on a machine that has the libraries for `usable`."""

    SessionOptions = SimpleNamespace

    def __init__(self, built_for: list[str], usable: list[str]) -> None:
        self._built_for = built_for
        self._usable = usable
        self.asked: dict[str, dict[str, Any]] = {}

    def get_available_providers(self) -> list[str]:
        return self._built_for

    def InferenceSession(self, *_: Any, providers: list[tuple[str, dict[str, Any]]], enable_fallback: int) -> Any:  # noqa: N802
        self.asked = dict(providers)
        used = [name for name, _ in providers if name in self._usable]
        metadata = ExportMetadata(SPEC, 64, dynamic=True, end2end=False).to_json()
        return SimpleNamespace(
            get_providers=lambda: [*used, CPU] if CPU not in used else used,
            get_modelmeta=lambda: SimpleNamespace(custom_metadata_map={METADATA: metadata}),
        )


def runtime(monkeypatch: pytest.MonkeyPatch, *, built_for: list[str], usable: list[str]) -> Runtime:
    found = Runtime(built_for, usable)
    monkeypatch.setattr("raypose.inference.backends.optional_package", lambda name: found)
    return found


def test_onnx_runtime_computes_on_the_gpu_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = runtime(monkeypatch, built_for=[CUDA, CPU], usable=[CUDA, CPU])
    backend = OnnxBackend(Path("m.onnx"), ComputeOptions("cuda:1", one_thread=True))
    assert found.asked[CUDA]["device_id"] == 1
    assert backend.device_type == "cuda"
    assert (backend.lanes, backend.images_a_call) == (2, 1024)  # not as many as there are cores


def test_what_tensorrt_cannot_do_is_done_on_the_same_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = runtime(monkeypatch, built_for=[TENSORRT, CUDA, CPU], usable=[TENSORRT, CUDA, CPU])
    backend = OnnxBackend(Path("m.onnx"), ComputeOptions("cuda:1"), TensorRtProfile(64, 8))
    assert {name: settings["device_id"] for name, settings in found.asked.items()} == {TENSORRT: 1, CUDA: 1}
    assert backend.images_a_call == 8


def test_onnx_runtime_that_lacks_libraries_for_the_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself it logs that, and computes on the CPU."""
    runtime(monkeypatch, built_for=[CUDA, CPU], usable=[CPU])
    with pytest.raises(ConfigError, match="CUDA cannot be used: ONNX Runtime did not find its libraries"):
        OnnxBackend(Path("m.onnx"), ComputeOptions("cuda"))


def test_onnx_runtime_without_cuda_says_that_it_computes_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = runtime(monkeypatch, built_for=[CPU], usable=[CPU])
    backend = OnnxBackend(Path("m.onnx"), ComputeOptions("auto"))
    assert list(found.asked) == [CPU]
    assert (backend.device_type, backend.images_a_call) == ("cpu", 4)
