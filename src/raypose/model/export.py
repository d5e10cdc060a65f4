"""Models as files for other runtimes: ONNX, OpenVINO, TorchScript. Each carries what its predictions mean.

The exported graph takes images B x 3 x H x W, RGB, float 0 to 1, and puts out what `select_poses` reads.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args
from xml.etree import ElementTree

import torch
from torch import Tensor, nn

from raypose.config.schema import STRIDE
from raypose.errors import CheckpointError, ConfigError
from raypose.model.bfloat16 import parts_in_float32
from raypose.model.yolo import ModelSpec, inference_view, is_end2end

ExportFormat = Literal["onnx", "openvino", "torchscript"]

METADATA = "raypose.json"
"""Name of the metadata: a file beside an OpenVINO model, an entry inside the others."""

OPENVINO_MODEL = "model.xml"
_SUFFIXES: dict[ExportFormat, str] = {"onnx": ".onnx", "openvino": "", "torchscript": ".torchscript"}
_OPSET = 17
"""Understood by every ONNX Runtime since 2022; the graph needs nothing newer."""


@dataclass(frozen=True, slots=True)
class ExportMetadata:
    """What a predictor must know of an exported model.

    A `dynamic` model takes any batch and any sides that are multiples of 32, others one image of imgsz squared.
    """

    spec: ModelSpec
    imgsz: int
    dynamic: bool
    end2end: bool

    def to_json(self) -> str:
        """As exported files hold it."""
        fields = {"imgsz": self.imgsz, "dynamic": self.dynamic, "end2end": self.end2end}
        return json.dumps({"model": self.spec.to_dict(), **fields})

    @classmethod
    def from_json(cls, text: str, source: Path) -> ExportMetadata:
        """Inverse of `to_json`; raises CheckpointError when raypose did not write it."""
        try:
            raw = json.loads(text)
            return cls(ModelSpec.from_dict(raw["model"]), int(raw["imgsz"]), bool(raw["dynamic"]), bool(raw["end2end"]))
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{source}: no raypose metadata inside; export it with 'raypose export'") from error


def export_model(
    model: nn.Module,
    spec: ModelSpec,
    imgsz: int,
    format: ExportFormat,  # noqa: A002 (the name that users type)
    out: Path,
    *,
    dynamic: bool = False,
    nms_free: bool = False,
) -> Path:
    """Write `model` in float32 to `out`, a file named `.onnx` or `.torchscript`, or a folder for OpenVINO.

    `nms_free` exports the head that needs no suppression, which only yolo26 has. Raises ConfigError for settings
    that do not go together and for packages that are not installed.
    """
    _check_target(format, imgsz, out)
    if nms_free and not is_end2end(model):
        raise ConfigError(f"nms_free: {spec.architecture} has no head without suppression; only yolo26 has one")
    metadata = ExportMetadata(spec, imgsz, dynamic, nms_free)
    graph = _export_graph(model, format, dynamic=dynamic, nms_free=nms_free)
    # Tracing a batch of one would fold the batch size into a dynamic graph.
    example = torch.zeros(2 if dynamic else 1, 3, imgsz, imgsz)
    out.parent.mkdir(parents=True, exist_ok=True)
    writers = {"onnx": _write_onnx, "openvino": _write_openvino, "torchscript": _write_torchscript}
    with torch.no_grad(), _quiet():
        graph(example)  # fills the anchors of this size before the trace sees them
        writers[format](graph, example, metadata, out)
    return out


def _check_target(name: str, imgsz: int, out: Path) -> None:
    if name not in get_args(ExportFormat):
        raise ConfigError(f"format {name!r}: expected one of {', '.join(get_args(ExportFormat))}")
    if imgsz <= 0 or imgsz % STRIDE:
        raise ConfigError(f"imgsz {imgsz} is no positive multiple of {STRIDE}")
    suffix = _SUFFIXES[name]  # type: ignore[index]
    if suffix and out.suffix != suffix:
        raise ConfigError(f"{out}: a file of format {name} ends in {suffix}; name it {out.with_suffix(suffix).name}")


def _export_graph(model: nn.Module, name: ExportFormat, *, dynamic: bool, nms_free: bool) -> nn.Module:
    graph: Any = copy.deepcopy(inference_view(model)).float().cpu().requires_grad_(False)
    graph.end2end = nms_free
    graph.fuse(verbose=False)
    head = graph.model[-1]
    head.export, head.format, head.dynamic = True, name, dynamic
    exported: nn.Module = graph.eval()
    return exported


def _write_onnx(graph: nn.Module, example: Tensor, metadata: ExportMetadata, out: Path) -> None:
    onnx = optional_package("onnx")
    optional_package("onnxruntime")
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "output": {0: "batch"}} if metadata.dynamic else None
    if axes is not None:
        axes["output"][1 if metadata.end2end else 2] = "rows"
    buffer = io.BytesIO()
    torch.onnx.export(
        graph,
        (example,),
        cast(Any, buffer),
        input_names=["images"],
        output_names=["output"],
        opset_version=_OPSET,
        dynamic_axes=axes,
        dynamo=False,  # the newer exporter needs onnxscript, which nothing else here does
    )
    exported = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(exported, {METADATA: metadata.to_json()})
    onnx.checker.check_model(exported)
    onnx.save(exported, str(out))


def _write_openvino(graph: nn.Module, example: Tensor, metadata: ExportMetadata, out: Path) -> None:
    openvino = optional_package("openvino")
    traced = _trace(graph, example)
    shape = openvino.PartialShape([-1, 3, -1, -1] if metadata.dynamic else list(example.shape))
    converted = openvino.convert_model(traced, input=[shape], example_input=example)
    out.mkdir(parents=True, exist_ok=True)
    openvino.save_model(converted, out / OPENVINO_MODEL, compress_to_fp16=False)
    _keep_in_float32(out / OPENVINO_MODEL, parts_in_float32(graph))
    (out / METADATA).write_text(metadata.to_json(), encoding="utf-8")


def _keep_in_float32(description: Path, modules: Sequence[str]) -> None:
    """Have OpenVINO compute what came from these modules in float32, whatever precision it is asked for.

    Its mark for that can be read from a file, but not be set from Python.
    """
    tree = ElementTree.parse(description)
    origins = tuple(f"__module.{module}." for module in modules)
    for operation in tree.iter("layer"):
        if operation.get("name", "").startswith(origins) and operation.get("type") != "Const":
            mark = ElementTree.Element("rt_info")
            ElementTree.SubElement(mark, "attribute", {"name": "precise", "version": "0"})
            data = operation.find("data")
            operation.insert(0 if data is None else 1, mark)
    tree.write(description, encoding="utf-8", xml_declaration=True)


def _write_torchscript(graph: nn.Module, example: Tensor, metadata: ExportMetadata, out: Path) -> None:
    traced = _trace(graph, example)
    traced.save(str(out), _extra_files={METADATA: metadata.to_json()})


def _trace(graph: nn.Module, example: Tensor) -> Any:
    return torch.jit.trace(graph, example, strict=False, check_trace=False)  # type: ignore[no-untyped-call]


def optional_package(package: str) -> Any:
    """A package of the `export` extra, or a ConfigError that names it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f"{package} is not installed; pip install 'raypose[export]'") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tracing warns of every shape that becomes a constant; here they are meant to."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
