"""What computes on this machine: the fastest back end of those that agree with PyTorch in float32."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from raypose.config.schema import STRIDE
from raypose.config.serve_schema import ComputeConfig
from raypose.data.synth import synthesize
from raypose.errors import CheckpointError, ConfigError
from raypose.inference.backends import (
    Backend,
    ComputeOptions,
    ComputePrecision,
    OnnxBackend,
    OpenVinoBackend,
    TensorRtProfile,
    TorchBackend,
    open_backend,
)
from raypose.model import ExportFormat, export_model, load_model, multiplies_bfloat16
from raypose.model.export import OPENVINO_MODEL
from raypose.structures import ImageArray
from raypose.vision.decode import decode_rgb
from raypose.vision.geometry import Letterbox

Kind = Literal["torch", "onnx", "openvino", "tensorrt"]
_PRECISIONS: dict[Kind, tuple[ComputePrecision, ...]] = {
    "torch": ("float32", "bfloat16"),
    "onnx": ("float32",),
    "openvino": ("float32", "bfloat16"),
    "tensorrt": ("float32", "bfloat16"),
}
_PACKAGES: dict[str, dict[Kind, str]] = {
    "cpu": {"onnx": "onnxruntime", "openvino": "openvino"},
    "cuda": {"tensorrt": "tensorrt"},
}
"""What `auto` tries besides PyTorch on a kind of device, and the package that it takes. With a GPU, what runs on the
CPU is no contender, and ONNX Runtime by CUDA has to be asked for."""

_PROBES, _WARM_CALLS, _TIMED_CALLS = 4, 2, 5
_SURE = 0.25
"""Anchors that score this much are compared, as the default `conf` would show them; else the best few."""
_LEAST_ANCHORS = 5


@dataclass(frozen=True, slots=True)
class Deviation:
    """The largest differences from PyTorch in float32 over the probes: pixels of the canvas, and score."""

    keypoint_px: float
    score: float

    def __str__(self) -> str:
        return f"{self.keypoint_px:.2f} px, {self.score:.4f}"


@dataclass(frozen=True, slots=True)
class Trial:
    """How one back end did. `refusal` says why it is out of the question, empty where it is not."""

    name: str
    ms_per_image: float
    deviation: Deviation | None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Compute:
    """A back end that is ready, and how it was chosen. `lane_backend` is the same for calls in one thread each."""

    backend: Backend
    imgsz: int
    trials: tuple[Trial, ...]
    lane_backend: Backend

    @property
    def name(self) -> str:
        return self.trials[0].name


def open_compute(path: Path, config: ComputeConfig, scratch: Path) -> Compute:
    """The back end for a local model. Exports of it go to `scratch` and have to stay there.

    Raises CheckpointError or ConfigError where nothing can serve it.
    """
    if path.suffix in (".onnx", ".torchscript") or (path / OPENVINO_MODEL).is_file():
        return _open_export(path, config)
    reference = TorchBackend.load(path, ComputeOptions(config.device, "float32"))
    imgsz = config.imgsz or reference.metadata.imgsz
    canvas_BHW3 = _probes(imgsz)
    expected = _finite(reference(canvas_BHW3), str(path))
    opened: dict[str, tuple[Backend, Callable[[], Backend]]] = {}
    trials = []
    for kind, precision in _candidates(reference, config):
        name = f"{kind} {precision}"
        open_it = partial(_opened, kind, precision, path, config, scratch, imgsz)
        try:
            candidate = reference if (kind, precision) == ("torch", "float32") else open_it()
            deviation = _deviation(expected, candidate(canvas_BHW3), _classes(candidate))
        except (OSError, MemoryError):  # of the machine, not of this back end
            raise
        except Exception as error:  # those of ONNX Runtime share no base class
            trials.append(Trial(name, 0.0, None, f"fails: {(str(error).splitlines() or [''])[0][:200]}"))
            continue
        opened[name] = candidate, partial(open_it, one_thread=True)
        trials.append(Trial(name, _time(candidate, canvas_BHW3), deviation, _refusal(deviation, config)))
    agreeing = sorted((trial for trial in trials if not trial.refusal), key=lambda trial: trial.ms_per_image)
    if not agreeing:
        said = "; ".join(f"{trial.name}: {trial.refusal}" for trial in trials)
        raise ConfigError(f"{path}: compute.backend {config.backend}, precision {config.precision}: {said}")
    others = tuple(trial for trial in trials if trial != agreeing[0])
    backend, open_for_lanes = opened[agreeing[0].name]
    return Compute(backend, imgsz, (agreeing[0], *others), _for_lanes(backend, open_for_lanes))


def _for_lanes(backend: Backend, open_for_lanes: Callable[[], Backend]) -> Backend:
    """What calls in one thread each. PyTorch's threads are the caller's choice, those of others are made with it."""
    several = backend.device_type == "cpu" and torch.get_num_threads() > 1
    return open_for_lanes() if several and not isinstance(backend, TorchBackend) else backend


def _open_export(path: Path, config: ComputeConfig) -> Compute:
    """An exported model as it is; whether it agrees with its source was for the export to check."""
    precision: ComputePrecision = "float32" if config.precision == "auto" else config.precision
    options = ComputeOptions(config.device, precision)
    backend = open_backend(path, options, config.imgsz)
    kind = "openvino" if path.is_dir() else {".onnx": "onnx"}.get(path.suffix, "torchscript")
    if config.backend not in ("auto", kind):
        raise ConfigError(f"{path}: is an export for {kind}; set compute.backend to auto, or serve its checkpoint")
    imgsz = config.imgsz or backend.metadata.imgsz
    canvas_BHW3 = _probes(imgsz)[: backend.images_a_call]
    _finite(backend(canvas_BHW3), str(path))
    trial = Trial(f"{kind} {backend.precision}", _time(backend, canvas_BHW3), None)
    open_for_lanes = partial(open_backend, path, replace(options, one_thread=True), config.imgsz)
    return Compute(backend, imgsz, (trial,), _for_lanes(backend, open_for_lanes))


def _candidates(reference: TorchBackend, config: ComputeConfig) -> Iterator[tuple[Kind, ComputePrecision]]:
    """Every back end that the configuration allows and this machine has."""
    device = reference.device_type
    for kind, precisions in _PRECISIONS.items():
        if kind == config.backend or (config.backend == "auto" and _is_installed(kind, device)):
            if config.precision != "auto":
                yield kind, config.precision
                continue
            for precision in precisions:
                if precision == "float32" or multiplies_bfloat16(device):
                    yield kind, precision


def _is_installed(kind: Kind, device: str) -> bool:
    package = _PACKAGES[device].get(kind)
    return kind == "torch" or (package is not None and importlib.util.find_spec(package) is not None)


def _opened(
    kind: Kind,
    precision: ComputePrecision,
    path: Path,
    config: ComputeConfig,
    scratch: Path,
    imgsz: int,
    *,
    one_thread: bool = False,
) -> Backend:
    """Raises ConfigError where the machine does not have what it takes."""
    options = ComputeOptions(config.device, precision, one_thread=one_thread)
    if kind == "torch":
        return TorchBackend.load(path, options)
    if kind == "openvino":
        return OpenVinoBackend.load(_exported(path, "openvino", scratch / "openvino"), options)
    exported = _exported(path, "onnx", scratch / "model.onnx")
    if kind == "onnx":
        return OnnxBackend(exported, options)
    return OnnxBackend(exported, options, TensorRtProfile(imgsz, max(config.batch, _PROBES)))


def _exported(path: Path, to: ExportFormat, target: Path) -> Path:
    if target.exists():
        return target  # for another precision
    module, spec, imgsz = load_model(path)
    return export_model(module, spec, imgsz, to, target, dynamic=True)


def _probes(imgsz: int) -> ImageArray:
    """Canvases with drawn people, wide ones as most photographs are."""
    canvases = []
    for sample in synthesize(_PROBES * 3, seed=7, size_px=max(imgsz, 64)):
        image = decode_rgb(sample.image, sample.id)
        box = Letterbox.fit(image.shape[1], image.shape[0], imgsz, stride=STRIDE, square=True)
        canvases.append(box.apply(image))
        if len(canvases) == _PROBES:
            break
    return np.stack(canvases)


def _finite(output: Tensor, place: str) -> Tensor:
    if not bool(torch.isfinite(output).all()):
        raise CheckpointError(f"{place}: its output on a test image is not finite; its weights are damaged")
    return output.float().cpu()  # where it is compared with others


def _classes(backend: Backend) -> int:
    return len(backend.metadata.spec.class_names)


def _deviation(expected_BCA: Tensor, found_BCA: Tensor, classes: int) -> Deviation | None:
    """Compared anchor by anchor, so that no suppression decides which people stand beside which.

    None where what was found is not finite: no comparison with it is ever false.
    """
    if not bool(torch.isfinite(found_BCA).all()):
        return None
    keypoint_px, score_difference = 0.0, 0.0
    for expected_CA, found_CA in zip(expected_BCA, found_BCA.float().cpu(), strict=True):
        score_A = expected_CA[4 : 4 + classes].max(dim=0).values
        count = max(int((score_A >= _SURE).sum()), _LEAST_ANCHORS)
        best = score_A.topk(min(count, len(score_A))).indices
        both = [rows[:, best] for rows in (expected_CA, found_CA)]
        score_difference = max(
            score_difference, float((both[0][4 : 4 + classes] - both[1][4 : 4 + classes]).abs().max())
        )
        expected_K3N, found_K3N = (rows[4 + classes :].reshape(-1, 3, len(best)) for rows in both)
        keypoint_px = max(keypoint_px, float((expected_K3N[:, :2] - found_K3N[:, :2]).abs().max()))
    return Deviation(keypoint_px, score_difference)


def _refusal(deviation: Deviation | None, config: ComputeConfig) -> str:
    if deviation is None:
        return "its output on a test image is not finite"
    if deviation.keypoint_px <= config.keypoint_tolerance_px and deviation.score <= config.score_tolerance:
        return ""
    allowed = Deviation(config.keypoint_tolerance_px, config.score_tolerance)
    return f"differs from float32 PyTorch by {deviation}, allowed are {allowed}"


def _time(backend: Backend, canvas_BHW3: ImageArray) -> float:
    """Median milliseconds an image, as many at a time as the back end likes."""
    canvas_BHW3 = canvas_BHW3[: backend.images_a_call]
    calls: list[float] = []
    for _ in range(_WARM_CALLS + _TIMED_CALLS):
        start_s = time.perf_counter()
        wait_for(backend(canvas_BHW3))
        calls.append((time.perf_counter() - start_s) * 1000 / len(canvas_BHW3))
    return statistics.median(calls[_WARM_CALLS:])


def wait_for(output: Tensor) -> Any:
    """A GPU answers before it has computed; a number of its answer is there once it has."""
    return output.flatten()[0].item()


def describe(trials: Sequence[Trial]) -> list[str]:
    """A line for each back end that was tried, the chosen one first."""
    return [
        f"{trial.name}: "
        + (trial.refusal or f"{trial.ms_per_image:.1f} ms an image, {trial.deviation or 'as exported'}")
        for trial in trials
    ]
