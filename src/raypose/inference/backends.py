"""What computes a model's output: PyTorch, ONNX Runtime, OpenVINO or TorchScript, behind one small protocol."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from raypose.errors import CheckpointError, ConfigError
from raypose.model import ExportMetadata, is_end2end, load_model
from raypose.model.export import METADATA, OPENVINO_MODEL, optional_package
from raypose.structures import ImageArray

ComputePrecision = Literal["float32", "bfloat16"]


class Backend(Protocol):
    """A loaded model. `metadata` says which canvases it takes and what its output means."""

    metadata: ExportMetadata

    def __call__(self, canvas_BHW3: ImageArray) -> Tensor:
        """The head's output for RGB canvases, as `select_poses` reads it."""


@dataclass(frozen=True, slots=True)
class ComputeOptions:
    """Where and how a back end computes."""

    device: str = "auto"
    precision: ComputePrecision = "float32"
    nms_free: bool = False
    """Take the head without suppression, which only yolo26 has."""
    max_det: int = 300

    @property
    def torch_device(self) -> torch.device:
        """The device that `auto` stands for here."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)


def open_backend(path: Path, options: ComputeOptions, imgsz: int | None) -> Backend:
    """The back end that the kind of file asks for. Raises CheckpointError or ConfigError."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such model; give a checkpoint, a .pt or an exported model")
    backend: Backend
    if (path / OPENVINO_MODEL).is_file():
        backend = OpenVinoBackend(path, options)
    elif path.suffix == ".onnx":
        backend = OnnxBackend(path, options)
    elif path.suffix == ".torchscript":
        backend = TorchScriptBackend(path, options)
    else:
        return TorchBackend.load(path, options)
    _check_export(path, backend.metadata, options, imgsz)
    return backend


def _check_export(path: Path, metadata: ExportMetadata, options: ComputeOptions, imgsz: int | None) -> None:
    if options.nms_free and not metadata.end2end:
        raise ConfigError(f"{path}: exported with the head that needs suppression; export it again with nms_free")
    if imgsz not in (None, metadata.imgsz) and not metadata.dynamic:
        raise ConfigError(f"{path}: exported for imgsz {metadata.imgsz}, not {imgsz}; export it again as dynamic")


class TorchBackend:
    """A PyTorch module that is already set up for inference."""

    def __init__(self, module: nn.Module, metadata: ExportMetadata, options: ComputeOptions) -> None:
        if metadata.end2end and not is_end2end(module):
            raise ConfigError(
                f"nms_free: {metadata.spec.architecture} has no head without suppression; only yolo26 has"
            )
        head: Any = module.model[-1]  # type: ignore[index]
        head.end2end = metadata.end2end
        head.max_det = max(options.max_det, 300)
        self.metadata = metadata
        self._module = module
        self._device = next(module.parameters()).device
        self._precision = options.precision

    @classmethod
    def load(cls, path: Path, options: ComputeOptions) -> TorchBackend:
        """From a checkpoint folder or a `.pt`; its convolutions absorb their BatchNorm layers."""
        module, spec, imgsz = load_model(path)
        metadata = ExportMetadata(spec, imgsz, dynamic=True, end2end=options.nms_free)
        fused: Any = module
        fused.end2end = options.nms_free
        fused.fuse(verbose=False)
        fused.to(options.torch_device, memory_format=torch.channels_last)
        return cls(fused, metadata, options)

    @torch.inference_mode()
    def __call__(self, canvas_BHW3: ImageArray) -> Tensor:
        # A transposed view is channels_last already, which CPUs and tensor cores prefer.
        image_B3HW = torch.from_numpy(canvas_BHW3).to(self._device).permute(0, 3, 1, 2).float().div_(255)
        with self._autocast():
            output, _ = self._module(image_B3HW)
        return _as_tensor(output)

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        if self._precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=torch.bfloat16)


class TorchScriptBackend:
    """A traced module, which needs no Python classes."""

    def __init__(self, path: Path, options: ComputeOptions) -> None:
        _require_float32(path, options)
        self._device = options.torch_device
        extra = {METADATA: ""}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces the end of TorchScript at every load
            try:
                self._module = torch.jit.load(  # type: ignore[no-untyped-call]
                    str(path), map_location=self._device, _extra_files=extra
                )
            except RuntimeError as error:
                raise CheckpointError(f"{path}: not a TorchScript file: {_first_line(error)}") from error
        self.metadata = ExportMetadata.from_json(extra[METADATA], path)

    @torch.inference_mode()
    def __call__(self, canvas_BHW3: ImageArray) -> Tensor:
        image_B3HW = torch.from_numpy(canvas_BHW3).to(self._device).permute(0, 3, 1, 2).float().div_(255)
        return _as_tensor(self._module(image_B3HW))


class OnnxBackend:
    """ONNX Runtime, with as many threads as torch would use."""

    def __init__(self, path: Path, options: ComputeOptions) -> None:
        _require_float32(path, options)
        onnxruntime = optional_package("onnxruntime")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), settings, providers=_providers(onnxruntime, options)
            )
        except Exception as error:  # its exceptions share no base class
            raise CheckpointError(f"{path}: not an ONNX model: {_first_line(error)}") from error
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA, "")
        self.metadata = ExportMetadata.from_json(text, path)

    def __call__(self, canvas_BHW3: ImageArray) -> Tensor:
        (output,) = self._session.run(None, {"images": _normalised(canvas_BHW3)})
        return torch.from_numpy(output)


class OpenVinoBackend:
    """OpenVINO on the CPU; bfloat16 only if asked for, whatever the CPU could do."""

    def __init__(self, path: Path, options: ComputeOptions) -> None:
        if options.device not in ("auto", "cpu"):
            raise ConfigError(f"{path}: OpenVINO models run on the CPU here; device is {options.device!r}, use cpu")
        openvino = optional_package("openvino")
        precision = {"float32": "f32", "bfloat16": "bf16"}[options.precision]
        settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        try:
            text = (path / METADATA).read_text(encoding="utf-8")
            self._compiled = openvino.Core().compile_model(str(path / OPENVINO_MODEL), "CPU", settings)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{path}: not an OpenVINO model of raypose: {_first_line(error)}") from error
        self.metadata = ExportMetadata.from_json(text, path)

    def __call__(self, canvas_BHW3: ImageArray) -> Tensor:
        # The result lives in a buffer that the next call overwrites.
        return torch.from_numpy(self._compiled(_normalised(canvas_BHW3))[0].copy())


def _normalised(canvas_BHW3: ImageArray) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ascontiguousarray(canvas_BHW3.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def _providers(onnxruntime: Any, options: ComputeOptions) -> list[str]:
    if options.torch_device.type == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    if options.device == "auto":
        return ["CPUExecutionProvider"]
    raise ConfigError(f"device {options.device}: this onnxruntime has no CUDA; install onnxruntime-gpu or use cpu")


def _require_float32(path: Path, options: ComputeOptions) -> None:
    if options.precision != "float32":
        raise ConfigError(
            f"{path}: this format computes in float32 only; precision {options.precision} is not possible"
        )


def _as_tensor(output: Any) -> Tensor:
    tensor: Tensor = output
    return tensor


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
