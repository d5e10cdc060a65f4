"""BatchNorm and SiLU of a model's layers in one go, for training in bfloat16 in one thread of a CPU.

PyTorch reads and writes a layer's numbers seven times there and back, rounds them in between, and computes exponentials
more exactly than bfloat16 can hold: a quarter of a training step. Here it is done in half that time.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raypose.model.bfloat16 import multiplies_bfloat16
from raypose.model.vendor import Conv, DWConv

_ROW_NUMBERS = 512
"""Rows of about that many numbers keep the loops busy where a pixel has few channels."""


def normalise_in_one_go(model: nn.Module) -> None:
    """Have the model's layers do so in training, in place. In evaluation, for what is no bfloat16 in channels_last, and
    on a CPU that has no instruction for bfloat16, they stay what they were."""
    if not multiplies_bfloat16("cpu"):
        return
    for module in model.modules():
        if type(module) in (Conv, DWConv) and _is_plain(module):
            # A class, because a layer with a bound method would hold itself, and its memory until Python looks for it.
            kind: Any = type(module)
            module.__class__ = _in_one_go(kind)


def _is_plain(layer: Any) -> bool:
    norm = layer.bn
    return (
        type(layer.act) is nn.SiLU
        and type(norm) is nn.BatchNorm2d
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
    )


@cache
def _in_one_go(kind: Any) -> Any:
    def forward(self: Any, image: Tensor) -> Any:
        hidden: Tensor = self.conv(image)
        norm = self.bn
        if not (norm.training and _suits(hidden)):
            return self.act(norm(hidden))
        running = norm.running_mean, norm.running_var
        return _NormSilu.apply(hidden, norm.weight, norm.bias, *running, norm.momentum, norm.eps)

    return type(kind.__name__, (kind,), {"forward": forward})


def _suits(hidden: Tensor) -> bool:
    pixels = hidden.numel() // hidden.shape[1]
    return (
        hidden.dtype == torch.bfloat16
        and hidden.is_contiguous(memory_format=torch.channels_last)
        and pixels > 1  # for a single one there is no variance, and PyTorch says so
    )


class _NormSilu(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        x_BCHW: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        running_mean_C: Tensor,
        running_var_C: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        from raypose.model import norm_silu_kernels

        channels = x_BCHW.shape[1]
        columns = _columns(x_BCHW.numel() // channels, channels)
        y_BCHW = torch.empty_like(x_BCHW)
        kept = np.empty((4, columns), np.float32)
        norm_silu_kernels.forward(
            _rows(x_BCHW, columns),
            channels,
            weight_C.numpy(),
            bias_C.numpy(),
            running_mean_C.numpy(),
            running_var_C.numpy(),
            momentum,
            eps,
            _rows(y_BCHW, columns),
            kept,
        )
        context.save_for_backward(x_BCHW, weight_C)
        context.kept = kept
        return y_BCHW

    @staticmethod
    def backward(context: Any, gradient_BCHW: Tensor) -> tuple[Tensor | None, ...]:
        from raypose.model import norm_silu_kernels

        x_BCHW, weight_C = context.saved_tensors
        kept = context.kept
        columns = kept.shape[1]
        dx_BCHW, d_weight_C, d_bias_C = (torch.empty_like(tensor) for tensor in (x_BCHW, weight_C, weight_C))
        norm_silu_kernels.backward(
            _rows(x_BCHW, columns),
            _rows(gradient_BCHW.contiguous(memory_format=torch.channels_last), columns),
            x_BCHW.shape[1],
            weight_C.numpy(),
            kept,
            _rows(dx_BCHW, columns),
            d_weight_C.numpy(),
            d_bias_C.numpy(),
        )
        return dx_BCHW, d_weight_C, d_bias_C, None, None, None, None


def _columns(pixels: int, channels: int) -> int:
    """Numbers in a row: the channels of the next 2**n pixels, as far as those go into all."""
    columns = channels
    while pixels % 2 == 0 and 2 * columns <= _ROW_NUMBERS:
        pixels, columns = pixels // 2, 2 * columns
    return columns


def _rows(image_BCHW: Tensor, columns: int) -> NDArray[np.uint16]:
    """The same memory as rows of bits."""
    rows: NDArray[np.uint16] = image_BCHW.permute(0, 2, 3, 1).view(torch.uint16).view(-1, columns).numpy()
    return rows
