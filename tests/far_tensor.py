"""Tensors that behave as those of a GPU do, as far as that can be had without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class FarTensor(Tensor):
    """Numbers on another device: they go together with their like alone, until `cpu()` brings them here."""

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> Any:
        tensors = list(_tensors_in([*arguments, *(settings or {}).values()]))
        if any(not isinstance(tensor, FarTensor) and tensor.dim() for tensor in tensors):
            raise RuntimeError("Expected all tensors to be on the same device, but found at least two devices")
        if function is Tensor.numpy:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        found = super().__torch_function__(function, types, arguments, dict(settings or {}))
        return found.as_subclass(Tensor) if function is Tensor.cpu else found


def _tensors_in(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors_in(value)
