"""Weights from files: transferred into a model that training starts with, or the whole model for prediction.

Foreign `.pt` files go through Ultralytics' allow-list loader, and of what it builds only tensors and plain values
are read: no method of an unpickled object runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from raypose.config.schema import ModelConfig, TrainConfig
from raypose.errors import CheckpointError, RayposeError
from raypose.model.vendor import torch_safe_load
from raypose.model.yolo import ModelSpec, build_model, unwrap
from raypose.structures import COCO_PERSON, Skeleton

_EMA = "ema."
_TENSORS = "state.safetensors"
_STATE = "state.json"
_LISTED = 4
"""Tensors named in a report; a new head leaves dozens behind."""
_RUN_WEIGHTS = ("weights/best.pt", "weights/last.pt")


@dataclass(frozen=True, slots=True)
class TransferReport:
    """What came over from a weights file. Shapes of skipped tensors: (in the file, in the model), None if absent."""

    source: str
    transferred: tuple[str, ...]
    skipped: Mapping[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]]

    def __str__(self) -> str:
        line = f"{self.source}: {len(self.transferred)} tensors transferred"
        if not self.skipped:
            return line
        listed = [
            f"{name} ({_said(theirs)} there, {_said(ours)} here)" for name, (theirs, ours) in self.skipped.items()
        ]
        more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
        return f"{line}, {len(listed)} did not fit: {', '.join(listed[:_LISTED])}{more}"


def load_pretrained(model: nn.Module, path: str | Path, *, named: str | None = None) -> TransferReport:
    """Copy every tensor whose name and shape fit into `model`; `named` is what the report calls `path`.

    `path` is an Ultralytics `.pt`, a raypose checkpoint folder or its `state.safetensors`, or a run folder (its best
    weights). Raises CheckpointError when the file cannot be trusted or read, or when nothing fits.
    """
    source = _weights_file(Path(path))
    found = _read_tensors(source)
    wanted: dict[str, Tensor] = unwrap(model).state_dict()
    fitting = {name: tensor for name, tensor in found.items() if _shape(wanted.get(name)) == tuple(tensor.shape)}
    if not fitting:
        raise CheckpointError(f"{source}: none of its {len(found)} tensors fits the model; check model.architecture")
    with torch.no_grad():
        for name, tensor in fitting.items():
            wanted[name].copy_(tensor)
    skipped = {
        name: (_shape(found.get(name)), _shape(wanted.get(name)))
        for name in dict.fromkeys((*found, *wanted))
        if name not in fitting
    }
    return TransferReport(named or str(source), tuple(fitting), skipped)


def load_model(path: str | Path) -> tuple[nn.Module, ModelSpec, int]:
    """The trained model in eval mode, its spec and the image size it was trained at, in pixels.

    `path` as for `load_pretrained`. A checkpoint folder is read from its safetensors and never unpickled.
    """
    source = _weights_file(Path(path))
    if source.suffix == ".safetensors":
        spec, imgsz = _described_by_json(source.with_name(_STATE))
        tensors = _read_tensors(source)
    else:
        content = _read_pt(source)
        spec, imgsz = _described_by_pt(content, source)
        tensors = dict(_tensors_of(_module_in(content, source)))
    model = build_model(spec, TrainConfig())
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{source}: its weights do not fit {spec.architecture}: {detail}") from error
    return model.eval().requires_grad_(False), spec, imgsz


def _weights_file(path: Path) -> Path:
    candidates = (path / _TENSORS, *(path / name for name in _RUN_WEIGHTS)) if path.is_dir() else (path,)
    for candidate in candidates:
        if candidate.is_file():
            if candidate.suffix not in (".pt", ".safetensors"):
                raise CheckpointError(f"{candidate}: weights are a .pt or .safetensors file, not {candidate.suffix!r}")
            return candidate
    if path.is_dir():
        raise CheckpointError(f"{path}: neither {_TENSORS} nor {' nor '.join(_RUN_WEIGHTS)} in this folder")
    raise CheckpointError(f"{path}: no such weights file; give a .pt, a raypose checkpoint or a run folder")


def _read_tensors(source: Path) -> dict[str, Tensor]:
    if source.suffix == ".pt":
        return dict(_tensors_of(_module_in(_read_pt(source), source)))
    try:
        with safetensors.safe_open(source, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(_EMA)]  # noqa: SIM118 (it is no mapping)
            tensors = {name.removeprefix(_EMA): file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{source}: {error}; the file is damaged, fetch it again") from error
    if not tensors:
        raise CheckpointError(f"{source}: no tensor is named {_EMA}…; expected a raypose checkpoint")
    return tensors


def _read_pt(source: Path) -> dict[str, Any]:
    """A `.pt` through the allow-list, whatever is wrong with it as CheckpointError."""
    try:
        content, _ = torch_safe_load(str(source), safe_only=True)
    except RayposeError:
        raise
    except Exception as error:  # the unpickler meets arbitrary bytes, so any kind of error may come out
        raise CheckpointError(
            f"{source}: not loaded: {_reason(error)}; expected a pose model saved by Ultralytics or raypose"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{source}: holds a {type(content).__name__}, expected an Ultralytics checkpoint")
    return content


def _reason(error: Exception) -> str:
    """What the allow-list loader stumbled over, which it keeps behind an error of its own."""
    cause = error.__cause__ or error
    asked = re.search(r"GLOBAL (\S+)", str(cause))
    if asked:
        return f"it asks for {asked[1]}, which is not on the list of allowed classes, and nothing in it ran"
    detail = (str(cause).strip().splitlines() or [""])[0][:200]
    return f"no checkpoint, or a damaged one ({type(cause).__name__}{': ' if detail else ''}{detail})"


def _module_in(content: Mapping[str, Any], source: Path) -> nn.Module:
    for key in ("ema", "model"):
        module = content.get(key)
        if isinstance(module, nn.Module):
            return module
    raise CheckpointError(f"{source}: no model inside; expected an Ultralytics checkpoint")


def _tensors_of(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers as float32, by attribute access only: `module` came out of a file."""
    members = vars(module)
    unsaved = members.get("_non_persistent_buffers_set", set())
    for kind in ("_parameters", "_buffers"):
        for name, tensor in members.get(kind, {}).items():
            if isinstance(tensor, Tensor) and name not in unsaved:
                yield prefix + name, tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
    for name, child in members.get("_modules", {}).items():
        if isinstance(child, nn.Module):
            yield from _tensors_of(child, f"{prefix}{name}.")


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _said(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "scalar"


def _described_by_json(path: Path) -> tuple[ModelSpec, int]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return ModelSpec.from_dict(state["model"]), int(state["imgsz"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot tell the model: {error!r}; the checkpoint is incomplete") from error


def _described_by_pt(content: Mapping[str, Any], source: Path) -> tuple[ModelSpec, int]:
    """What raypose wrote into the file, or else what an Ultralytics model says of itself."""
    own = content.get("raypose")
    members = vars(_module_in(content, source))
    try:
        if isinstance(own, Mapping):
            return ModelSpec.from_dict(own), int(own["imgsz"])
        layout = members["yaml"]
        count, dimensions = layout["kpt_shape"]
        architecture = _architecture(layout)
        class_names = tuple(str(name) for _, name in sorted(dict(members["names"]).items()))
        keypoint_names = (members.get("kpt_names") or {}).get(0) or ()
        imgsz = int((content.get("train_args") or {}).get("imgsz") or TrainConfig().imgsz)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: {error!r}; expected a pose model of Ultralytics") from error
    if dimensions != 3:
        raise CheckpointError(f"{source}: keypoints have {dimensions} values, expected 3 (x, y, visibility)")
    return ModelSpec(architecture, _skeleton(count, keypoint_names), class_names), imgsz


def _architecture(layout: Mapping[str, Any]) -> str:
    """`yolo11n-pose`, from the name and scale that Ultralytics keeps in a model's layout."""
    family = re.sub(r"(yolov?\d+)[nslmx]?-pose", r"\1", Path(str(layout["yaml_file"])).stem)
    architecture = f"{family}{layout['scale']}-pose"
    return ModelConfig(architecture=architecture).architecture


def _skeleton(keypoints: int, names: Any) -> Skeleton:
    """Ultralytics keeps at most the names; 17 unnamed keypoints are COCO's by its convention."""
    unnamed = not names or all(str(name) == str(index) for index, name in enumerate(names))
    if len(names) == keypoints and not unnamed and tuple(names) != COCO_PERSON.names:
        return Skeleton(tuple(str(name) for name in names))
    if keypoints == COCO_PERSON.keypoints:
        return COCO_PERSON
    return Skeleton(tuple(f"keypoint_{index}" for index in range(keypoints)))
