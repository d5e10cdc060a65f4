"""Optimizers with Ultralytics' parameter groups and its `auto` rule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn, optim

from raypose.config.schema import TrainConfig
from raypose.model.vendor import MuSGD
from raypose.model.yolo import unwrap

_NORM_LAYERS = tuple(layer for name, layer in vars(nn).items() if "Norm" in name)
_AUTO_MUSGD_UPDATES = 10_000
_HEAD_LR_FACTOR = 3.0
"""MuSGD trains the classification branches this much faster than the rest."""


@dataclass(frozen=True, slots=True)
class OptimizerChoice:
    """The optimizer settings that apply once `auto` and the batch size are resolved.

    `weight_decay` is scaled to the images of one update. Warm-up leads the momentum of groups that have one
    from `warmup_momentum` to `TrainConfig.momentum`, also under `auto`; `momentum` is what they start with
    when there is no warm-up.
    """

    name: str
    lr0: float
    momentum: float
    warmup_bias_lr: float
    weight_decay: float


def accumulated_batches(train: TrainConfig) -> int:
    """Batches whose gradients add up to one update after warm-up."""
    return max(round(train.nbs / train.batch), 1)


def choose_optimizer(train: TrainConfig, classes: int, total_steps: int) -> OptimizerChoice:
    """Resolve `auto`: MuSGD for runs of more than 10,000 updates, else AdamW with a rate fitted to the classes.

    `total_steps` counts the global batches of the whole run.
    """
    name, lr0, momentum, warmup_bias_lr = train.optimizer, train.lr0, train.momentum, train.warmup_bias_lr
    if train.optimizer == "auto":
        momentum, warmup_bias_lr = 0.9, 0.0
        if _updates(train, total_steps) > _AUTO_MUSGD_UPDATES:
            name, lr0 = "MuSGD", 0.01
        else:
            name, lr0 = "AdamW", round(0.002 * 5 / (4 + classes), 6)
    scale = train.batch * accumulated_batches(train) / train.nbs
    return OptimizerChoice(name, lr0, momentum, warmup_bias_lr, train.weight_decay * scale)


def _updates(train: TrainConfig, total_steps: int) -> int:
    """Ultralytics' count: whole updates of an epoch, times epochs."""
    images_per_epoch = total_steps * train.batch // train.epochs
    return math.ceil(images_per_epoch / max(train.batch, train.nbs)) * train.epochs


def build_optimizer(model: nn.Module, train: TrainConfig, total_steps: int) -> optim.Optimizer:
    """The optimizer of a run of `total_steps` global batches.

    Each group says what it holds in `group["param_group"]`: `weight` (decays), `bn`, `bias` or `muon`.
    """
    inner = unwrap(model)
    choice = choose_optimizer(train, inner.model[-1].nc, total_steps)
    groups = _parameter_groups(inner, choice)
    if choice.name == "MuSGD":
        return _uncompiled(MuSGD)(groups, muon=0.2, sgd=1.0)
    if choice.name == "SGD":
        return _uncompiled(optim.SGD)(groups)
    # One pass over memory instead of a dozen: a quarter of the time, on CPU as on CUDA.
    return _uncompiled(optim.Adam if choice.name == "Adam" else optim.AdamW)(groups, fused=True)


def _uncompiled(kind: type[optim.Optimizer]) -> Callable[..., optim.Optimizer]:
    """The same optimizer, whose methods do not import PyTorch's compiler only to keep it out of them.

    That import takes seconds of every start of a worker.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    bare = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return cast("Callable[..., optim.Optimizer]", type(kind.__name__, (kind,), {**bare, "step": step}))


def _parameter_groups(model: nn.Module, choice: OptimizerChoice) -> list[dict[str, Any]]:
    use_muon = choice.name == "MuSGD"
    members = _sort_parameters(model, use_muon)
    settings: dict[str, Any] = {"lr": choice.lr0}
    if choice.name in ("SGD", "MuSGD"):
        settings |= {"momentum": choice.momentum, "nesterov": True}
    else:
        settings |= {"betas": (choice.momentum, 0.999)}
    groups = [
        {
            "params": parameters,
            **settings,
            "weight_decay": choice.weight_decay if kind in ("weight", "muon") else 0.0,
            **({"use_muon": True} if kind == "muon" else {}),
            "param_group": kind,
        }
        for kind, parameters in members.items()
    ]
    return _split_head(groups, _class_branches(model)) if use_muon else groups


def _sort_parameters(model: nn.Module, use_muon: bool) -> dict[str, list[nn.Parameter]]:
    kinds: dict[str, list[nn.Parameter]] = {"weight": [], "bn": [], "bias": []}
    if use_muon:
        kinds["muon"] = []
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(module_name, recurse=False):
            if use_muon and parameter.ndim in (2, 4):  # matrices and convolutions can be orthogonalised
                kinds["muon"].append(parameter)
            elif "bias" in name:
                kinds["bias"].append(parameter)
            elif isinstance(module, _NORM_LAYERS):
                kinds["bn"].append(parameter)
            else:
                kinds["weight"].append(parameter)
    return kinds


def _class_branches(model: nn.Module) -> set[int]:
    head = unwrap(model).model[-1]
    branches = (getattr(head, "cv3", None), getattr(head, "one2one_cv3", None))
    return {id(parameter) for branch in branches if branch is not None for parameter in branch.parameters()}


def _split_head(groups: list[dict[str, Any]], faster: set[int]) -> list[dict[str, Any]]:
    split = []
    for group in groups:
        inside = [parameter for parameter in group["params"] if id(parameter) in faster]
        outside = [parameter for parameter in group["params"] if id(parameter) not in faster]
        split.append({**group, "params": inside, "lr": group["lr"] * _HEAD_LR_FACTOR})
        split.append({**group, "params": outside})
    return split
