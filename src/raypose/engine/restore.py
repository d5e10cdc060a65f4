"""A run's tensors into a snapshot, and back without changing a bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from raypose.checkpoint import CheckpointStore, Snapshot, TrainProgress, checkpoint_name
from raypose.engine.average import WeightAverage
from raypose.engine.world import World
from raypose.errors import CheckpointError


class HostMemory:
    """Memory that tensors are copied into: always the same, so it is claimed once and holds one copy."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def copy_of(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `tensors` hold now, all of it there. The next call overwrites it."""
        places = {name: self._place(name, tensor) for name, tensor in tensors.items()}
        # A GPU copies into pinned memory while the program goes on, so all copies are queued and waited for together.
        for name, tensor in tensors.items():
            places[name].copy_(tensor.detach(), non_blocking=True)
        for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
            torch.cuda.current_stream(device).record_event().synchronize()
        return places

    def _place(self, name: str, tensor: Tensor) -> Tensor:
        place = self._kept.get(name)
        if place is None or (place.shape, place.stride(), place.dtype) != (tensor.shape, tensor.stride(), tensor.dtype):
            place = torch.empty_like(tensor, device="cpu", requires_grad=False, pin_memory=tensor.is_cuda)
            self._kept[name] = place
        return place


def tensors_of(model: nn.Module, average: WeightAverage, optimizer: Optimizer, *, gradients: bool) -> dict[str, Tensor]:
    """All that decides how the run goes on, as it is named in a Snapshot. `gradients` when an update is pending."""
    tensors: dict[str, Tensor] = {}
    tensors |= {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"ema.{name}": tensor for name, tensor in average.module.state_dict().items()}
    tensors |= _optimizer_tensors(optimizer)
    if gradients:
        tensors |= {
            f"gradient.{name}": parameter.grad
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
    return tensors


def newest_for_all(checkpoints: CheckpointStore, world: World, warn: Callable[[str], None]) -> Snapshot | None:
    """The newest sound checkpoint, the same one on every worker, whatever is published or retired meanwhile."""
    snapshot = checkpoints.load_latest(warn) if world.is_leader else None
    step = world.from_leader(snapshot.progress.step if snapshot else None)
    if step is None or snapshot is not None:
        return snapshot
    return checkpoints.load(checkpoint_name(step))


def restore(snapshot: Snapshot, model: nn.Module, average: WeightAverage, optimizer: Optimizer) -> TrainProgress:
    """Put a snapshot's tensors where they came from, in place."""
    model.load_state_dict(_below("model.", snapshot.tensors))
    load_average(snapshot, average.module)
    _restore_optimizer(optimizer, _below("optimizer.", snapshot.tensors))
    gradients = _below("gradient.", snapshot.tensors)
    for name, parameter in model.named_parameters():
        if name in gradients and parameter.requires_grad:  # it may be frozen from this step on
            _put_gradient(parameter, gradients[name])
    return snapshot.progress


def _put_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = _laid_out_like(parameter, gradient)
    else:
        parameter.grad.copy_(gradient)  # where it is: workers add up what lies there


def load_average(snapshot: Snapshot, module: nn.Module) -> None:
    """Only the moving average of a snapshot, in place."""
    module.load_state_dict(_below("ema.", snapshot.tensors))


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    tensors = {}
    for index, slots in optimizer.state_dict()["state"].items():
        for slot, value in slots.items():
            if not isinstance(value, Tensor):
                raise CheckpointError(
                    f"optimizer {type(optimizer).__name__} keeps {slot!r} as {type(value).__name__};"
                    " only tensors can be saved exactly"
                )
            tensors[f"optimizer.{index}.{slot}"] = value
    return tensors


def _restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, slot = name.partition(".")
        slots.setdefault(int(index), {})[slot] = _laid_out_like(parameters[int(index)], tensor)
    # Learning rates and momenta are not state: the schedule sets them from the step.
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """The same numbers in the parameter's memory order, which decides the order in which norms add them up."""
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
