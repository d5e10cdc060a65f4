"""OpenCV's 8-bit hue, saturation and value on tensors of any device: the same bytes, but for roundings of the last."""

from __future__ import annotations

import torch
from torch import Tensor

HUES = 180
_BITS = 12  # of OpenCV's fixed-point reciprocals
_HALF = 1 << (_BITS - 1)
_SECTOR_OF_RGB = (5.0, 3.0, 1.0)


def recolour(image_B3HW: Tensor, table_B2563: Tensor) -> Tensor:
    """RGB images (uint8) whose hue, saturation and value went through each one's table (B, 256, 3)."""
    hue_BHW, saturation_BHW, value_BHW = (
        _look_up(level_BHW, table_B2563[:, :, channel]) for channel, level_BHW in enumerate(_to_hsv(image_B3HW))
    )
    return _to_rgb(hue_BHW, saturation_BHW, value_BHW)


def _look_up(level_BHW: Tensor, table_B256: Tensor) -> Tensor:
    looked_up = table_B256.float().gather(1, level_BHW.flatten(1).long())
    return looked_up.view(level_BHW.shape)


def _to_hsv(image_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue 0 to 179, saturation and value 0 to 255, in OpenCV's integer arithmetic: a hue that is off by one shows."""
    red, green, blue = image_B3HW.int().unbind(1)
    value, least = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    chroma = value - least
    saturation = (chroma * _reciprocals(255.0, image_B3HW.device)[value] + _HALF) >> _BITS
    sixths = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma),
    )
    hue = (sixths * _reciprocals(HUES / 6, image_B3HW.device)[chroma] + _HALF) >> _BITS
    return torch.where(hue < 0, hue + HUES, hue), saturation, value


def _reciprocals(numerator: float, device: torch.device) -> Tensor:
    """numerator / n in fixed point for n up to 255, and 0 for 0."""
    divisors = torch.arange(256, dtype=torch.float64, device=device)
    fixed = torch.round(numerator * (1 << _BITS) / divisors.clamp(min=1)).int()
    return torch.where(divisors > 0, fixed, 0)


def _to_rgb(hue_BHW: Tensor, saturation_BHW: Tensor, value_BHW: Tensor) -> Tensor:
    sector_BHW, chroma_BHW = hue_BHW * (6 / HUES), value_BHW * saturation_BHW * (1 / 255)
    channels = []
    for offset in _SECTOR_OF_RGB:
        distance_BHW = torch.remainder(sector_BHW + offset, 6)
        share_BHW = torch.minimum(distance_BHW, 4 - distance_BHW).clamp_(0, 1)
        channels.append(torch.round(value_BHW - chroma_BHW * share_BHW).to(torch.uint8))
    return torch.stack(channels, dim=1)
