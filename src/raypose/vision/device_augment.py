"""Training images drawn by tensor operations for a whole batch, on whatever device its pixels are.

`draw_batch` makes what `draw_training_image` makes one by one: mosaic, perspective, colours and flips of the same
designs. Geometry is composed first (device_table.py) and each output pixel interpolated once, between four pixels of
one source, which takes the same few dozen kernels for any number of images of any sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from raypose.vision.device_colour import recolour
from raypose.vision.device_table import TILES, SamplingTable
from raypose.vision.geometry import PAD_VALUE

_IMAGES_AT_ONCE = 16
"""Bounds memory: sampling an image of 640 x 640 takes 60 MB for coordinates and pixels that are dropped at once."""


def draw_batch(sources: Sequence[Tensor], table: SamplingTable, imgsz: int) -> Tensor:
    """B3HW images (uint8 RGB) of imgsz x imgsz from 3HW sources (uint8 RGB, of any sizes) on one device."""
    device = sources[0].device
    packed = _pack(sources, table.shrink_S.tolist())
    drawn = [_sample(packed, part, imgsz) for part in _Maps.of(table, packed, device).split(_IMAGES_AT_ONCE)]
    image_B3HW = torch.cat(drawn)
    if table.colour_table_B is None:
        return image_B3HW
    colours = torch.split(_moved(table.colour_table_B, device), _IMAGES_AT_ONCE)
    return torch.cat(
        [recolour(part, table) for part, table in zip(torch.split(image_B3HW, _IMAGES_AT_ONCE), colours, strict=True)]
    )


@dataclass(frozen=True, slots=True)
class _Packed:
    """Pixels of all sources one after another, red, green and blue planes of each."""

    pixels: Tensor
    offset_S: list[int]
    width_S: list[int]
    height_S: list[int]


def _pack(sources: Sequence[Tensor], shrink: Sequence[int]) -> _Packed:
    shrunk = [_shrunk(source, side) if side > 1 else source for source, side in zip(sources, shrink, strict=True)]
    sizes = [source.numel() for source in shrunk]
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).tolist()
    pixels = torch.cat([source.reshape(-1) for source in shrunk])
    return _Packed(pixels, offsets, [source.shape[2] for source in shrunk], [source.shape[1] for source in shrunk])


def _shrunk(source_3HW: Tensor, side: int) -> Tensor:
    """Means over squares; what is left of a square at the right and the bottom counts as one."""
    means = functional.avg_pool2d(source_3HW[None].float(), side, ceil_mode=True)
    return means.round_().to(torch.uint8)[0]


def _moved(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True, slots=True)
class _Maps:
    """The table and where its sources lie among the pixels, on the device."""

    to_place_B33: Tensor
    region_BT4: Tensor
    to_source_BT4: Tensor
    bounds_BT4: Tensor
    offset_BT: Tensor
    width_BT: Tensor
    plane_BT: Tensor

    @classmethod
    def of(cls, table: SamplingTable, packed: _Packed, device: torch.device) -> _Maps:
        # Two copies instead of seven: each costs a launch.
        count = len(table.to_place_B33)
        reals = np.concatenate(
            [
                array.reshape(count, -1)
                for array in (table.to_place_B33, table.region_BT4, table.to_source_BT4, table.bounds_BT4)
            ],
            axis=1,
        )
        width_S, height_S = np.array(packed.width_S), np.array(packed.height_S)
        whole_S3 = np.stack([np.array(packed.offset_S), width_S, width_S * height_S], axis=-1)
        to_place, region, to_source, bounds = torch.split(_moved(reals, device), [9, *[4 * TILES] * 3], dim=1)
        whole_BT3 = _moved(whole_S3[table.source_BT], device)
        return cls(
            to_place.view(count, 3, 3),
            region.view(count, TILES, 4),
            to_source.view(count, TILES, 4),
            bounds.view(count, TILES, 4),
            *whole_BT3.unbind(-1),
        )

    def split(self, size: int) -> list[_Maps]:
        parts = [torch.split(cast(Tensor, getattr(self, name)), size) for name in self.__slots__]
        return [_Maps(*columns) for columns in zip(*parts, strict=True)]


def _sample(packed: _Packed, maps: _Maps, imgsz: int) -> Tensor:
    """Each output pixel between four pixels of the tile that it shows."""
    x_BHW, y_BHW = _places(maps.to_place_B33, imgsz)
    tile_BHW, covered_BHW = _tiles(maps.region_BT4, x_BHW, y_BHW)
    scale_x, scale_y, offset_x, offset_y = (_of_tile(part, tile_BHW) for part in maps.to_source_BT4.unbind(-1))
    first_x, first_y, last_x, last_y = (_of_tile(part, tile_BHW) for part in maps.bounds_BT4.unbind(-1))
    # Sources count pixels from the centre of the first one, places from its corner.
    # Where no tile is, a place may be infinite, and what follows from it no index.
    column_BHW = torch.where(covered_BHW, scale_x * x_BHW + (offset_x - 0.5), first_x).clamp_(first_x, last_x)
    row_BHW = torch.where(covered_BHW, scale_y * y_BHW + (offset_y - 0.5), first_y).clamp_(first_y, last_y)
    left_BHW, top_BHW = column_BHW.floor(), row_BHW.floor()
    width_BHW = _of_tile(maps.width_BT, tile_BHW)
    index_BHW = _of_tile(maps.offset_BT, tile_BHW) + top_BHW.long() * width_BHW + left_BHW.long()
    to_right_BHW = (left_BHW < last_x).long()
    to_below_BHW = (top_BHW < last_y) * width_BHW
    plane_BHW = _of_tile(maps.plane_BT, tile_BHW)
    across_BHW, down_BHW = column_BHW - left_BHW, row_BHW - top_BHW
    channels = []
    for channel in range(3):
        here = index_BHW + channel * plane_BHW
        upper = torch.lerp(packed.pixels[here].float(), packed.pixels[here + to_right_BHW].float(), across_BHW)
        here = here + to_below_BHW
        lower = torch.lerp(packed.pixels[here].float(), packed.pixels[here + to_right_BHW].float(), across_BHW)
        value = torch.lerp(upper, lower, down_BHW).round_()
        channels.append(torch.where(covered_BHW, value, PAD_VALUE).to(torch.uint8))
    return torch.stack(channels, dim=1)


def _places(to_place_B33: Tensor, imgsz: int) -> tuple[Tensor, Tensor]:
    """Where each output pixel's centre comes from: in the output or the canvas."""
    centre = torch.arange(imgsz, dtype=torch.float32, device=to_place_B33.device) + 0.5
    rows_B3311 = to_place_B33[..., None, None]
    x_HW, y_HW = centre[None, :], centre[:, None]
    x_BHW, y_BHW, depth_BHW = (
        rows_B3311[:, row, 0] * x_HW + rows_B3311[:, row, 1] * y_HW + rows_B3311[:, row, 2] for row in range(3)
    )
    return x_BHW / depth_BHW, y_BHW / depth_BHW


def _tiles(region_BT4: Tensor, x_BHW: Tensor, y_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """The tile that each place lies in, and whether there is one."""
    tile_BHW = torch.zeros_like(x_BHW, dtype=torch.long)
    covered_BHW = torch.zeros_like(x_BHW, dtype=torch.bool)
    for tile in range(region_BT4.shape[1]):
        left, top, right, bottom = region_BT4[:, tile, :, None, None].unbind(1)
        inside_BHW = (x_BHW >= left) & (x_BHW < right) & (y_BHW >= top) & (y_BHW < bottom)
        tile_BHW.masked_fill_(inside_BHW, tile)
        covered_BHW |= inside_BHW
    return tile_BHW, covered_BHW


def _of_tile(value_BT: Tensor, tile_BHW: Tensor) -> Tensor:
    return value_BT.gather(1, tile_BHW.flatten(1)).view(tile_BHW.shape)
