"""Non-maximum suppression by torchvision's operator, without torchvision's Python package.

Importing that package brings in all of its models and with them PyTorch's compiler: as long as everything else that a
worker imports, and every start of a worker would wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
from torch import Tensor


def nms(box_xyxy_N4: Tensor, score_N: Tensor, iou: float) -> Tensor:
    """Indices of the boxes to keep, best score first: none overlaps a better one by more than `iou`."""
    return _operator()(box_xyxy_N4, score_N, iou)


@cache
def _operator() -> Callable[[Tensor, Tensor, float], Tensor]:
    package = find_spec("torchvision")
    if package is not None and package.origin is not None:
        for library in Path(package.origin).parent.glob("_C*.so"):
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    if not hasattr(torch.ops.torchvision, "nms"):  # built in another way, as on Windows
        import torchvision  # noqa: F401
    return cast("Callable[[Tensor, Tensor, float], Tensor]", torch.ops.torchvision.nms)
