"""JPEG files to pixels where training wants them: by nvJPEG on a GPU, through torchvision.

It is imported where it is used: that takes seconds, which training without a GPU does not wait for.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor


def decode_jpegs(files: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """3HW RGB images on `device` of files (uint8, in host memory). Raises RuntimeError where one does not decode."""
    from torchvision.io import ImageReadMode, decode_jpeg

    if device.type == "cuda":
        # nvJPEG writes on a stream of its own that waits for no other, into memory that others may still be reading.
        torch.cuda.current_stream(device).synchronize()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision tells of its successor at every call
            images: list[Tensor] = decode_jpeg(list(files), mode=ImageReadMode.RGB, device=device)
    except RuntimeError:
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # images before the bad one are still being written, to freed memory
        raise
    return images


def decodes_jpegs(device: torch.device) -> bool:
    """Whether this torchvision decodes on this device, and not merely for it: found by trying."""
    if device.type != "cuda":
        return False
    from torchvision.io import encode_jpeg

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = encode_jpeg(torch.zeros(3, 16, 16, dtype=torch.uint8))
        decode_jpegs([file], device)
    except RuntimeError:
        return False
    return True
