"""Designs of training images as arrays to sample by: which tile an output pixel shows, and which pixel of it.

Everything is composed here, in float64, so that each pixel is sampled once. The random choices and the maps that labels
follow are those of the CPU path; only the sampling differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np

from raypose.structures import FloatArray, ImageArray, IntArray
from raypose.vision.augment import Design
from raypose.vision.canvas import Matrix, Patch, Tile

TILES = 4
"""T, the tiles of an image that a table has room for; an image that is no mosaic fills one of them."""


@dataclass(frozen=True, slots=True)
class SamplingTable:
    """How B images are sampled from S sources, which are the tiles of one image after another.

    An output pixel (its centre, in pixels) is mapped to the place where tiles are told apart, which is the output again
    where axes are kept, and else the canvas. The tile whose region it lies in says which pixel of its source it shows.
    """

    to_place_B33: FloatArray
    region_BT4: FloatArray
    """Left, top, right, bottom; nothing lies in the region of a tile that is not there."""
    to_source_BT4: FloatArray
    """Scale x and y, offset x and y: from the place to pixels of the source, after it was shrunk."""
    bounds_BT4: FloatArray
    """First column and row, last column and row that may be looked at."""
    source_BT: IntArray
    shrink_S: IntArray
    """Each source is first averaged over squares of so many pixels, where it would be scaled down by more than that."""
    colour_table_B: ImageArray | None
    """(B, 256, 3), as `colour_table` makes them."""


class SourceSize(NamedTuple):
    """Pixels of a source as the device gets it; more than its design counts if the device is to shrink it."""

    width: int
    height: int


def tabulate(designs: Sequence[Design], sizes: Sequence[SourceSize], imgsz: int) -> SamplingTable:
    """The table of a batch; `sizes` are those of its sources."""
    count = len(designs)
    table = SamplingTable(
        to_place_B33=np.empty((count, 3, 3), np.float32),
        region_BT4=np.zeros((count, TILES, 4), np.float32),
        to_source_BT4=np.zeros((count, TILES, 4), np.float32),
        bounds_BT4=np.zeros((count, TILES, 4), np.float32),
        source_BT=np.zeros((count, TILES), np.int64),
        shrink_S=np.ones(len(sizes), np.int64),
        colour_table_B=_colours(designs),
    )
    source = 0
    for number, design in enumerate(designs):
        table.to_place_B33[number] = _to_place(design, imgsz)
        for index, tile in enumerate(design.canvas.tiles):
            row = (
                _warped_row(design, tile, sizes[source])
                if design.patches is None
                else _aligned_row(design.patches[index], tile, sizes[source])
            )
            if row is not None:
                table.region_BT4[number, index] = row.region
                table.to_source_BT4[number, index] = row.to_source
                table.bounds_BT4[number, index] = row.bounds
                table.shrink_S[source] = row.shrink
            table.source_BT[number, index] = source
            source += 1
    return table


def _colours(designs: Sequence[Design]) -> ImageArray | None:
    tables = [design.colour_table for design in designs if design.colour_table is not None]
    return np.stack(tables) if tables else None


def _to_place(design: Design, imgsz: int) -> Matrix:
    layout = design.layout
    turn = np.eye(3)
    if layout.mirrored:
        turn = np.array([[-1, 0, imgsz], [0, 1, 0], [0, 0, 1]]) @ turn
    if layout.upside_down:
        turn = np.array([[1, 0, 0], [0, -1, imgsz], [0, 0, 1]]) @ turn
    if design.patches is not None:
        return turn
    to_canvas: Matrix = np.linalg.inv(cast(Matrix, layout.to_output)) @ turn
    return to_canvas


class _Row(NamedTuple):
    region: tuple[float, float, float, float]
    to_source: tuple[float, float, float, float]
    bounds: tuple[int, int, int, int]
    shrink: int


def _aligned_row(patch: Patch | None, tile: Tile, size: SourceSize) -> _Row | None:
    """As `draw_aligned` has it: pixels first..last of the source fill start..end of the output."""
    if patch is None:
        return None
    x, y = patch
    counted_high, counted_wide = tile.source.image.shape[:2]
    more_x, more_y = size.width / counted_wide, size.height / counted_high
    halvings = _halvings(x.last - x.first, y.last - y.first, x.end - x.start, y.end - y.start)
    shrink = _shrink(tile, size, halvings)
    scale_x = (x.last - x.first) / (x.end - x.start) * more_x / shrink
    scale_y = (y.last - y.first) / (y.end - y.start) * more_y / shrink
    first_x, first_y = x.first * more_x / shrink, y.first * more_y / shrink
    last_x, last_y = x.last * more_x / shrink, y.last * more_y / shrink
    return _Row(
        (x.start, y.start, x.end, y.end),
        (scale_x, scale_y, first_x - scale_x * x.start, first_y - scale_y * y.start),
        (int(first_x), int(first_y), math.ceil(last_x) - 1, math.ceil(last_y) - 1),
        shrink,
    )


def _warped_row(design: Design, tile: Tile, size: SourceSize) -> _Row:
    """As `draw_warped` has it, but straight from the source, so that the whole way down counts for its shrinking."""
    canvas, zoom = design.canvas, design.layout.zoom
    high, wide = tile.source.image.shape[:2]
    shrink = _shrink(tile, size, _halvings(wide, high, tile.width * zoom, tile.height * zoom))
    scale_x, scale_y = size.width / tile.width / shrink, size.height / tile.height / shrink
    right, bottom = min(tile.left + tile.width, canvas.width), min(tile.top + tile.height, canvas.height)
    return _Row(
        (max(tile.left, 0), max(tile.top, 0), right, bottom),
        (scale_x, scale_y, -scale_x * tile.left, -scale_y * tile.top),
        (0, 0, -(-size.width // shrink) - 1, -(-size.height // shrink) - 1),
        shrink,
    )


def _halvings(wide: int, high: int, to_width: float, to_height: float) -> int:
    """How often the CPU path halves an image before it interpolates."""
    count = 0
    while wide >= 2 * to_width and high >= 2 * to_height and max(wide, high) > 1:
        wide, high = (wide + 1) // 2, (high + 1) // 2
        count += 1
    return count


def _shrink(tile: Tile, size: SourceSize, halvings: int) -> int:
    """The side of the squares that are averaged: what decoding at a fraction left out, and the halvings."""
    left_out = round(max(size.width, size.height) / max(tile.source.image.shape[:2]))
    return int(max(left_out, 1)) << halvings
