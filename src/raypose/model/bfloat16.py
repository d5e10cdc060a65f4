"""A model's layers in bfloat16, what they mean in float32.

bfloat16 has eight bits. Layers live with that: noise of one part in 256 averages out. Positions do not: boxes and
keypoints are small offsets from cells of a grid, and as bfloat16 a place 300 px from the corner moves in steps of 2 px.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raypose.model.yolo import in_float32


def compute_in_bfloat16(model: nn.Module) -> None:
    """Cast a model for inference, in place. It takes bfloat16 images; what it decodes stays float32."""
    inner: Any = model
    inner.to(torch.bfloat16)
    head = inner.model[-1]
    head.dfl.float()  # the mean of a distribution over distances: decoding, not a layer
    # A class, because a head with a bound method would hold itself, and its memory until Python looks for such cycles.
    head.__class__ = _decoding_in_float32(head.__class__)


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
