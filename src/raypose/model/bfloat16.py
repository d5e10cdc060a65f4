"""A model's layers in bfloat16, what they mean in float32.

bfloat16 has eight bits. Most layers live with that: noise of one part in 256 averages out over the channels that the
next one adds up. Positions do not: boxes and keypoints are small offsets from cells of a grid, and as bfloat16 a place
300 px from the corner moves in steps of 2 px. Nor do scores: what the first two layers lose of a picture, with few
channels, and what the branch of the head loses that has one output, moves them by more than .01. These parts stay
float32, for a twentieth of the time with OpenVINO.
"""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raypose.model.yolo import in_float32

_FIRST_LAYERS = 2
_SCORE_BRANCHES = ("cv3", "one2one_cv3")


def parts_in_float32(model: nn.Module) -> list[str]:
    """Names of the modules, all that is below them included, that compute in float32 where the model does not."""
    inner: Any = model
    last = len(inner.model) - 1
    # A model for inference has lost the branches that it does not use: they are None.
    branches = [name for name in _SCORE_BRANCHES if getattr(inner.model[last], name, None) is not None]
    return [f"model.{layer}" for layer in range(_FIRST_LAYERS)] + [f"model.{last}.{name}" for name in branches]


def compute_in_bfloat16(model: nn.Module) -> None:
    """Cast a model for inference, in place. It takes float32 images, and what it decodes is float32."""
    inner: Any = model
    inner.to(torch.bfloat16)
    parts = [inner.get_submodule(name).float() for name in parts_in_float32(model)]
    head = inner.model[-1]
    head.dfl.float()  # the mean of a distribution over distances: decoding, not a layer
    # Classes, as a module with a bound method would hold itself, and its memory until Python looks for such cycles.
    head.__class__ = _decoding_in_float32(head.__class__)
    for branch in itertools.chain(*parts[_FIRST_LAYERS:]):
        branch.__class__ = _taking(torch.float32, branch.__class__)
    following = inner.model[_FIRST_LAYERS]
    following.__class__ = _taking(torch.bfloat16, following.__class__)


@cache
def _taking(dtype: torch.dtype, kind: Any) -> Any:
    return type(kind.__name__, (kind,), {"forward": lambda self, image: kind.forward(self, image.to(dtype))})


@cache
def _decoding_in_float32(kind: Any) -> type[nn.Module]:
    def _inference(self: Any, predictions: dict[str, Any]) -> Tensor:
        decoded: Tensor = kind._inference(self, in_float32(predictions))
        return decoded

    in_float32_head: type[nn.Module] = type(kind.__name__, (kind,), {"_inference": _inference})
    return in_float32_head


def multiplies_bfloat16(device_type: str) -> bool:
    """Whether bfloat16 is a matter of hardware here, not of emulation."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.backends.cpu.get_cpu_capability()
    return capabilities.startswith("AVX512") and _cpu_flag("avx512_bf16", "amx_bf16")


def _cpu_flag(*names: str) -> bool:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return any(name in flags for name in names)
