"""What computes a model's output: PyTorch, ONNX Runtime (by TensorRT, too), OpenVINO or TorchScript, behind one
small protocol."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from raypose.config.schema import STRIDE
from raypose.errors import CheckpointError, ConfigError
from raypose.model import (
    ExportMetadata,
    ModelSpec,
    compute_in_bfloat16,
    inference_view,
    is_end2end,
    load_model,
    multiplies_bfloat16,
)
from raypose.model.export import METADATA, OPENVINO_MODEL, optional_package
from raypose.structures import ImageArray

ComputePrecision = Literal["auto", "float32", "bfloat16"]
"""`auto` is bfloat16 where the hardware multiplies it natively and the kind of model can have it, else float32."""

TENSORRT, _BY_CUDA, _ON_CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"
"""ONNX Runtime's names for them."""
Provider = tuple[str, dict[str, Any]]
"""Such a name and settings."""

_CPU_IMAGES_A_CALL = 4
"""Shares the cost of a call and stays near a core's cache: 10 to 15 % less time an image than one at a time, and more
at a time take no less (yolo11n-pose, 640 px, one thread)."""
_GPU_IMAGES_A_CALL = 1024
"""All there are: a GPU wants them together, and the caller's batch is the limit."""
GPU_LANES = 2
"""While the GPU computes one batch, another one's boxes are sorted out."""


def _images_a_call(device_type: str) -> int:
    return _CPU_IMAGES_A_CALL if device_type == "cpu" else _GPU_IMAGES_A_CALL


class Backend(Protocol):
    """A loaded model. `metadata` says which canvases it takes and what its output means."""

    metadata: ExportMetadata
    images_a_call: int
    """Canvases that one call takes at most. Grouping moves last digits, so it does not depend on cores."""
    device_type: str

    @property
    def precision(self) -> Literal["float32", "bfloat16"]:
        """What its layers compute in, all but a few in bfloat16."""

    @property
    def lanes(self) -> int:
        """How many twins, each called from a thread of its own, keep the device busy."""

    def twin(self) -> Backend:
        """Another one over the same weights, to be called at the same time."""

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
    one_thread: bool = False
    """Have a CPU compute each call in one thread, and several calls side by side, so that results do not depend on the
    number of cores: sums that are shared out differently round differently. PyTorch's own threads are set by the
    threads that call."""

    @property
    def torch_device(self) -> torch.device:
        """The device that `auto` stands for here."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def uses_bfloat16(self) -> bool:
        """What `precision` comes to on this hardware; ConfigError where bfloat16 is asked for and would be emulated."""
        device_type = self.torch_device.type
        native = multiplies_bfloat16(device_type)
        if self.precision == "bfloat16" and not native:
            raise ConfigError(
                f"precision: bfloat16, but this {device_type} has no native bfloat16 arithmetic; use auto or float32"
            )
        return native and self.precision != "float32"

    @property
    def threads(self) -> int:
        """CPU threads of one call."""
        return 1 if self.one_thread else torch.get_num_threads()

    @property
    def lanes(self) -> int:
        """Calls at a time that keep the CPU busy."""
        return torch.get_num_threads() // self.threads


def open_backend(path: Path, options: ComputeOptions, imgsz: int | None) -> Backend:
    """The back end that the kind of file asks for. Raises CheckpointError or ConfigError."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such model; give a checkpoint, a .pt or an exported model")
    backend: Backend
    if (path / OPENVINO_MODEL).is_file():
        backend = OpenVinoBackend.load(path, options)
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

    def __init__(self, module: nn.Module, metadata: ExportMetadata) -> None:
        dtypes = {parameter.dtype for parameter in module.parameters()}
        self.metadata = metadata
        self._device = next(module.parameters()).device
        self.device_type = self._device.type
        self.precision: Literal["float32", "bfloat16"] = "bfloat16" if torch.bfloat16 in dtypes else "float32"
        self.images_a_call = _images_a_call(self.device_type)
        self._module = module

    @classmethod
    def load(cls, path: Path, options: ComputeOptions) -> TorchBackend:
        """From a checkpoint folder or a `.pt`."""
        module, spec, imgsz = load_model(path)
        return cls._of(module, spec, imgsz, options)

    @classmethod
    def of_copy(cls, module: nn.Module, spec: ModelSpec, imgsz: int, options: ComputeOptions) -> TorchBackend:
        """Over a copy of a module, which stays as it is."""
        return cls._of(copy.deepcopy(inference_view(module)), spec, imgsz, options)

    @classmethod
    def _of(cls, module: Any, spec: ModelSpec, imgsz: int, options: ComputeOptions) -> TorchBackend:
        """Takes the module over: its convolutions absorb their BatchNorm layers, heads that are not used go."""
        if options.nms_free and not is_end2end(module):
            raise ConfigError(f"nms_free: {spec.architecture} has no head without suppression; only yolo26 has")
        module.requires_grad_(False)
        module.end2end = options.nms_free
        module.fuse(verbose=False)
        module.model[-1].max_det = max(options.max_det, 300)
        module.to(options.torch_device, memory_format=torch.channels_last)
        if options.uses_bfloat16:
            compute_in_bfloat16(module)
        return cls(module, ExportMetadata(spec, imgsz, dynamic=True, end2end=options.nms_free))

    @property
    def lanes(self) -> int:
        return torch.get_num_threads() if self._device.type == "cpu" else GPU_LANES

    def twin(self) -> TorchBackend:
        return TorchBackend(inference_view(self._module), self.metadata)

    @torch.inference_mode()
    def __call__(self, canvas_BHW3: ImageArray) -> Tensor:
        # A transposed view is channels_last already, which CPUs and tensor cores prefer.
        image_B3HW = torch.from_numpy(canvas_BHW3).to(self._device).permute(0, 3, 1, 2).float().div_(255)
        output, _ = self._module(image_B3HW)
        return _as_tensor(output)


class TorchScriptBackend:
    """A traced module, which needs no Python classes."""

    precision: Literal["float32"] = "float32"

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
        self.device_type = self._device.type
        self.images_a_call = _images_a_call(self.device_type) if self.metadata.dynamic else 1
        self.lanes = options.lanes if self.device_type == "cpu" else GPU_LANES

    def twin(self) -> TorchScriptBackend:
        return self  # a call changes nothing

    @torch.inference_mode()
    def __call__(self, canvas_BHW3: ImageArray) -> Tensor:
        image_B3HW = torch.from_numpy(canvas_BHW3).to(self._device).permute(0, 3, 1, 2).float().div_(255)
        return _as_tensor(self._module(image_B3HW))


@dataclass(frozen=True, slots=True)
class TensorRtProfile:
    """What TensorRT compiles a dynamic model for: up to `batch` canvases of up to `imgsz` x `imgsz`, fastest at those.

    It does so at the first call, which takes minutes.
    """

    imgsz: int
    batch: int

    def provider(self, options: ComputeOptions) -> Provider:
        """As ONNX Runtime wants to be told."""
        largest = f"images:{self.batch}x3x{self.imgsz}x{self.imgsz}"
        return TENSORRT, {
            "device_id": options.torch_device.index or 0,
            "trt_bf16_enable": options.uses_bfloat16,
            "trt_profile_min_shapes": f"images:1x3x{STRIDE}x{STRIDE}",
            "trt_profile_opt_shapes": largest,
            "trt_profile_max_shapes": largest,
        }


class OnnxBackend:
    """ONNX Runtime, with as many threads as torch would use; on a GPU by CUDA, or by TensorRT with a `profile`."""

    def __init__(self, path: Path, options: ComputeOptions, profile: TensorRtProfile | None = None) -> None:
        if profile is None:
            _require_float32(path, options)
        onnxruntime = optional_package("onnxruntime")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        providers = _providers(onnxruntime, options) if profile is None else _tensorrt(onnxruntime, options, profile)
        try:
            self._session = onnxruntime.InferenceSession(str(path), settings, providers=providers, enable_fallback=0)
        except Exception as error:  # its exceptions share no base class
            if profile is not None:
                raise ConfigError(f"TensorRT cannot be used: {_first_line(error)}") from error
            raise CheckpointError(f"{path}: not an ONNX model: {_first_line(error)}") from error
        wanted, _ = providers[0]
        if self._session.get_providers()[0] != wanted:  # it only logs that, and takes the next one or the CPU
            what, remedy = (
                ("TensorRT", "pip install tensorrt") if profile is not None else ("CUDA", "or use device cpu")
            )
            raise ConfigError(f"{what} cannot be used: ONNX Runtime did not find its libraries; {remedy}")
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA, "")
        self.metadata = ExportMetadata.from_json(text, path)
        self.precision: Literal["float32", "bfloat16"] = (
            "bfloat16" if profile is not None and options.uses_bfloat16 else "float32"
        )
        self.device_type = "cpu" if wanted == _ON_CPU else "cuda"
        most = _images_a_call(self.device_type) if profile is None else profile.batch
        self.images_a_call = most if self.metadata.dynamic else 1
        self.lanes = options.lanes if self.device_type == "cpu" else GPU_LANES

    def twin(self) -> OnnxBackend:
        return self  # a session serves several threads

    def __call__(self, canvas_BHW3: ImageArray) -> Tensor:
        (output,) = self._session.run(None, {"images": _normalised(canvas_BHW3)})
        return torch.from_numpy(output)


class OpenVinoBackend:
    """OpenVINO on the CPU."""

    device_type = "cpu"

    def __init__(self, compiled: Any, metadata: ExportMetadata, options: ComputeOptions) -> None:
        self.metadata = metadata
        self.precision: Literal["float32", "bfloat16"] = "bfloat16" if options.uses_bfloat16 else "float32"
        self.images_a_call = _CPU_IMAGES_A_CALL if metadata.dynamic else 1
        self.lanes = options.lanes
        self._compiled = compiled
        self._options = options
        self._request = compiled.create_infer_request()

    @classmethod
    def load(cls, path: Path, options: ComputeOptions) -> OpenVinoBackend:
        """From the folder of an export."""
        if options.device not in ("auto", "cpu"):
            raise ConfigError(f"{path}: OpenVINO models run on the CPU here; device is {options.device!r}, use cpu")
        options = replace(options, device="cpu")
        openvino = optional_package("openvino")
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if options.uses_bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": options.lanes,
        }
        try:
            text = (path / METADATA).read_text(encoding="utf-8")
            core = openvino.Core()
            model = _taking_canvases(openvino, core.read_model(str(path / OPENVINO_MODEL)))
            backend = cls(core.compile_model(model, "CPU", settings), ExportMetadata.from_json(text, path), options)
            # The Python side of OpenVINO completes itself during the first call of a process, and hangs for ever where
            # the first ones of two threads meet there. So one is over before there are lanes.
            backend(np.zeros((1, backend.metadata.imgsz, backend.metadata.imgsz, 3), np.uint8))
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{path}: not an OpenVINO model of raypose: {_first_line(error)}") from error
        return backend

    def twin(self) -> OpenVinoBackend:
        return OpenVinoBackend(self._compiled, self.metadata, self._options)

    def __call__(self, canvas_BHW3: ImageArray) -> Tensor:
        canvas_BHW3 = np.ascontiguousarray(canvas_BHW3)
        # Unless told to share, it copies what comes and what goes. The result lives in a buffer of the next call, too.
        output = self._request.infer(canvas_BHW3, share_inputs=True, share_outputs=True)[0]
        return torch.from_numpy(output.copy())


def _taking_canvases(openvino: Any, model: Any) -> Any:
    """The model with `_normalised` inside, which OpenVINO computes on all threads, together with its first layer."""
    steps = openvino.preprocess.PrePostProcessor(model)
    images = steps.input()
    images.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    images.model().set_layout(openvino.Layout("NCHW"))
    images.preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    return steps.build()


def _normalised(canvas_BHW3: ImageArray) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.divide(canvas_BHW3.transpose(0, 3, 1, 2), np.float32(255), dtype=np.float32, order="C")


def _providers(onnxruntime: Any, options: ComputeOptions) -> list[Provider]:
    if options.torch_device.type == "cpu":
        return [(_ON_CPU, {})]
    if _BY_CUDA in onnxruntime.get_available_providers():
        return [_cuda(options)]
    if options.device == "auto":
        return [(_ON_CPU, {})]
    raise ConfigError(f"device {options.device}: this onnxruntime has no CUDA; install onnxruntime-gpu or use cpu")


def _cuda(options: ComputeOptions) -> Provider:
    # Unless it is told otherwise, it measures all algorithms of cuDNN for each shape of images.
    return _BY_CUDA, {"device_id": options.torch_device.index or 0, "cudnn_conv_algo_search": "HEURISTIC"}


def _tensorrt(onnxruntime: Any, options: ComputeOptions, profile: TensorRtProfile) -> list[Provider]:
    if options.torch_device.type != "cuda":
        raise ConfigError("TensorRT computes on NVIDIA GPUs, and there is none, or device says cpu")
    if TENSORRT not in onnxruntime.get_available_providers():
        raise ConfigError("this onnxruntime has no TensorRT; pip install onnxruntime-gpu tensorrt in its place")
    return [profile.provider(options), _cuda(options)]


def _require_float32(path: Path, options: ComputeOptions) -> None:
    if options.precision == "bfloat16":
        raise ConfigError(
            f"{path}: this format computes in float32 only; precision {options.precision} is not possible"
        )


def _as_tensor(output: Any) -> Tensor:
    tensor: Tensor = output
    return tensor


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
