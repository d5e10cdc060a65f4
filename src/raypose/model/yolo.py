"""YOLO pose models of Ultralytics, seen through plain values: a spec builds one, a batch gives a loss.

Loss scale: what `compute_loss` returns to backward is the sum of the loss terms times the images of the
micro-batch, as Ultralytics backpropagates it on each GPU. Workers and virtual workers then add up over micro-batches.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raypose.config.schema import TrainConfig
from raypose.errors import CheckpointError, ConfigError
from raypose.model.vendor import PoseModel, get_cfg, ultralytics_version
from raypose.structures import Batch, Skeleton

_GAINS = ("box", "cls", "dfl", "pose", "kobj", "rle")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a model is, without its weights."""

    architecture: str
    skeleton: Skeleton
    class_names: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain builtins, as checkpoints and exported files hold it."""
        return {
            "architecture": self.architecture,
            "skeleton": self.skeleton.to_dict(),
            "class_names": list(self.class_names),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ModelSpec:
        """Inverse of `to_dict`; raises CheckpointError when a part is missing."""
        try:
            return cls(
                architecture=str(raw["architecture"]),
                skeleton=Skeleton.from_dict(raw["skeleton"]),
                class_names=tuple(str(name) for name in raw["class_names"]),
            )
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"model description: {error!r}; expected architecture, skeleton and class_names"
            ) from error


def build_model(spec: ModelSpec, train: TrainConfig, seed: int | None = None) -> nn.Module:
    """An untrained model on the CPU, in training mode, ready for `compute_loss`.

    With a seed its weights depend on nothing else, and torch's global random state is left alone.
    OKS sigmas follow Ultralytics: those of the skeleton where it states them (its `kpt_oks_sigmas`), else COCO's
    for 17 keypoints, else 1/K for each.
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        model: Any = PoseModel(
            f"{spec.architecture}.yaml",
            nc=len(spec.class_names),
            # A list: Ultralytics compares it with [17, 3] to recognise COCO's skeleton.
            data_kpt_shape=[spec.skeleton.keypoints, 3],
            verbose=False,
        )
    model.task = "pose"
    model.nc = len(spec.class_names)
    model.names = dict(enumerate(spec.class_names))
    model.kpt_names = {index: list(spec.skeleton.names) for index in range(len(spec.class_names))}
    model.kpt_oks_sigmas = None if spec.skeleton.sigmas is None else list(spec.skeleton.sigmas)
    model.class_weights = _weights(train.class_weights, spec.class_names)  # Ultralytics' own loss looks at them
    model.keypoint_weights = _weights(train.keypoint_weights, spec.skeleton.names)
    model.args = get_cfg(overrides=_ultralytics_args(spec, train))
    built: nn.Module = model
    return built


def _weights(named: Mapping[str, float], names: Sequence[str]) -> Tensor | None:
    return torch.tensor([named.get(name, 1.0) for name in names]) if named else None


def _ultralytics_args(spec: ModelSpec, train: TrainConfig) -> dict[str, Any]:
    gains = {name: getattr(train, name) for name in _GAINS}
    return {"task": "pose", "model": f"{spec.architecture}.yaml", "imgsz": train.imgsz, "epochs": train.epochs, **gains}


def targets_from_batch(batch: Batch, device: torch.device | str) -> dict[str, Tensor]:
    """Ultralytics' batch: images as float 0 to 1, and flat targets, on `device`."""
    image_B3HW = torch.from_numpy(batch.image_B3HW).to(device, non_blocking=True)
    return {
        # In the order of the layers' memory while a number is a byte; the first one would do it later, to four bytes.
        "img": image_B3HW.contiguous(memory_format=torch.channels_last).float().div_(255),
        "cls": torch.from_numpy(batch.class_N).to(device, torch.float32).view(-1, 1),
        "bboxes": torch.from_numpy(batch.box_cxcywh_N4).to(device),
        "keypoints": torch.from_numpy(batch.keypoints_NK3).to(device),
        "batch_idx": torch.from_numpy(batch.image_index_N).to(device, torch.float32),
    }


def compute_loss(model: nn.Module, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Forward and loss: the scalar to backpropagate, and the detached terms in the order of `loss_names`.

    The scalar is multiplied by the number of images, the terms are not. `model` may be compiled. Under autocast
    only the layers compute in low precision: the loss adds what they predict to positions in the grid, and
    bfloat16's 8 bits would round a keypoint 100 cells from the corner to half a cell.
    """
    return _loss_of(model, targets, in_float32(model(targets["img"])))


def compute_joint_losses(model: nn.Module, micro_batches: Sequence[dict[str, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """What `compute_loss` says of each, after one forward pass of all their images together.

    BatchNorm sees them as one batch. Images are of one size.
    """
    images = [targets["img"] for targets in micro_batches]
    predictions = in_float32(model(torch.cat(images)))
    stops = list(itertools.accumulate(map(len, images)))
    return [
        _loss_of(model, targets, _part(predictions, slice(start, stop)))
        for targets, start, stop in zip(micro_batches, [0, *stops], stops, strict=False)
    ]


def _loss_of(model: nn.Module, targets: dict[str, Tensor], predictions: Any) -> tuple[Tensor, Tensor]:
    inner = unwrap(model)
    criterion = _criterion(inner)
    with torch.autocast(targets["img"].device.type, enabled=False):
        loss, items = inner.loss(targets, predictions)
    return loss.sum(), torch.stack([items[name] for name in criterion.loss_names])


def _part(predictions: Any, images: slice) -> Any:
    """The predictions for some of the images."""
    if isinstance(predictions, dict):
        return {name: _part(part, images) for name, part in predictions.items()}
    if isinstance(predictions, list):
        return [_part(part, images) for part in predictions]
    return predictions[images]


def in_float32(predictions: Any) -> Any:
    """The same predictions, each head's tensors and lists of tensors raised to float32."""
    if isinstance(predictions, dict):
        return {name: in_float32(part) for name, part in predictions.items()}
    if isinstance(predictions, list | tuple):
        return [in_float32(part) for part in predictions]
    return predictions.float()


def loss_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the loss terms, such as `box_loss`; yolo26 has `l1_loss` for `dfl_loss`, and `rle_loss`.

    Its terms are those of the one-to-one head.
    """
    return tuple(_criterion(unwrap(model)).loss_names)


def set_epoch(model: nn.Module, epoch: int, epochs: int) -> None:
    """Tell the loss which epoch (from 0) of how many it is in.

    yolo26 moves weight from its one-to-many head to the one-to-one head as epochs pass; a function of the epoch
    alone, so a resumed run needs no other state. The other architectures do not care.
    """
    inner = unwrap(model)
    inner.args.epochs = epochs
    criterion = inner.criterion if getattr(inner, "criterion", None) is not None else _new_criterion(inner)
    _advance(criterion, epoch)


def _criterion(model: nn.Module) -> Any:
    """The model's loss, built where the weights are now; returned as its per-head part that knows the terms."""
    criterion = getattr(model, "criterion", None)
    if criterion is None or _head_loss(criterion).device != next(model.parameters()).device:
        epoch = getattr(criterion, "updates", 0)
        criterion = _new_criterion(model)
        _advance(criterion, epoch)
    return _head_loss(criterion)


def _new_criterion(model: nn.Module) -> Any:
    criterion: Any = model.init_criterion()  # type: ignore[operator]
    for head_loss in [criterion.one2one, criterion.one2many] if hasattr(criterion, "one2one") else [criterion]:
        _weigh_keypoints(head_loss, model)
    model.criterion = criterion
    return criterion


def _weigh_keypoints(head_loss: Any, model: nn.Module) -> None:
    weights_K: Any = getattr(model, "keypoint_weights", None)
    if weights_K is None:
        return
    weights_K = weights_K.to(head_loss.device)
    head_loss.keypoint_loss = _WeightedKeypointLoss(head_loss.keypoint_loss, weights_K)
    if getattr(head_loss, "rle_loss", None) is not None:
        head_loss.target_weights = head_loss.target_weights * weights_K


class _WeightedKeypointLoss(nn.Module):
    """Ultralytics' loss of positions, in which some keypoints count for more.

    It multiplies the loss of each keypoint with a mask of those that are labelled, and otherwise only asks which of
    its elements are not 0: weights can be part of the mask.
    """

    def __init__(self, inner: nn.Module, weights_K: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.weights_K = weights_K

    def forward(self, predicted: Tensor, labelled: Tensor, mask_NK: Tensor, area: Tensor) -> Tensor:
        loss: Tensor = self.inner(predicted, labelled, mask_NK * self.weights_K, area)
        return loss


def _head_loss(criterion: Any) -> Any:
    return getattr(criterion, "one2one", criterion)


def _advance(criterion: Any, epoch: int) -> None:
    if hasattr(criterion, "update"):
        criterion.updates = epoch - 1
        criterion.update()


def unwrap(model: nn.Module) -> Any:
    """The model itself, if torch.compile is around it."""
    return getattr(model, "_orig_mod", model)


def freeze_layers(model: nn.Module, freeze: int | tuple[int, ...]) -> tuple[str, ...]:
    """Fix the parameters of the first `freeze` layers, or of the listed ones; returns their names.

    The DFL integral is always fixed, everything else becomes trainable. Raises ConfigError when nothing is left.
    """
    layers = range(freeze) if isinstance(freeze, int) else freeze
    prefixes = tuple(f"model.{layer}." for layer in layers)
    frozen = []
    for name, parameter in model.named_parameters():
        fixed = name.startswith(prefixes) or ".dfl" in name
        parameter.requires_grad_(not fixed)
        if fixed:
            frozen.append(name)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"train.freeze {freeze} leaves no parameter to train; freeze fewer layers")
    return tuple(frozen)


def set_train_mode(model: nn.Module) -> None:
    """`model.train()`, but frozen BatchNorm layers keep their statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()


def inference_view(model: nn.Module) -> nn.Module:
    """A second module over the same tensors, in eval mode.

    It follows in-place updates of the weights (an EMA in training), while the modes, the chosen head and the cached
    anchors of the two do not affect each other.
    """
    inner = unwrap(model)
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*inner.parameters(), *inner.buffers())}
    view: nn.Module = copy.deepcopy(inner, shared).eval()
    view.criterion = None  # type: ignore[assignment]
    return view


def is_end2end(model: nn.Module) -> bool:
    """Whether the model has a head that predicts without non-maximum suppression."""
    return getattr(unwrap(model).model[-1], "one2one_cv2", None) is not None


def portable_copy(model: nn.Module) -> nn.Module:
    """A copy as `write_portable` wants it: on the CPU, float32, in plain memory order, without what training adds."""
    module: nn.Module = copy.deepcopy(inference_view(model)).float().cpu().requires_grad_(False)
    return module.to(memory_format=torch.contiguous_format)


def write_portable(
    module: nn.Module, spec: ModelSpec, train: TrainConfig, path: Path, *, epoch: int, metrics: Mapping[str, float]
) -> None:
    """Write a `.pt` that `ultralytics.YOLO(path)` and its allow-list loader accept, from a portable copy of a model.

    Copying takes longer than writing, so it is left to the caller. Weights stay float32 where Ultralytics would halve
    them, so that both predict the same.
    """
    args = _ultralytics_args(spec, train)
    module.args = args  # type: ignore[assignment]
    content = {
        "date": datetime.now(UTC).isoformat(),
        "version": ultralytics_version,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
        "epoch": epoch,
        "best_fitness": None,
        "model": module,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": args,
        "train_metrics": {name: float(value) for name, value in metrics.items()},
        "raypose": {**spec.to_dict(), "imgsz": train.imgsz},
    }
    torch.save(content, path)
