"""Images laid side by side on a canvas, and what becomes of their pixels in the output.

Each image is resized once, straight to where it ends up; only a rotation, shear or perspective needs the canvas itself.
Coordinates are continuous pixels, so labels follow their pixels exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from raypose.structures import ImageArray, People
from raypose.vision.geometry import PAD_VALUE

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A decoded image and its people, whose coordinates refer to width x height pixels.

    `image` (HW3 RGB) may be smaller than that: large images are decoded at a fraction of their size. Where a GPU is
    still to decode it, `yet_to_decode` stands for it, and `file` is the image as it came.
    """

    image: ImageArray
    people: People
    width: int
    height: int
    file: bytes | None = None


def yet_to_decode(width: int, height: int) -> ImageArray:
    """The shape of an image that has no pixels yet; it takes no memory either."""
    return np.broadcast_to(np.uint8(PAD_VALUE), (height, width, 3))


class Axes(NamedTuple):
    """A map that keeps axes: x becomes scale_x * x + offset_x, and y likewise."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float


class Tile(NamedTuple):
    """An image and the whole pixels of the canvas that it fills; it may hang over the canvas."""

    source: Labelled
    left: int
    top: int
    width: int
    height: int

    @property
    def to_canvas(self) -> Axes:
        """From the coordinates of the image's people."""
        return Axes(self.width / self.source.width, self.height / self.source.height, self.left, self.top)


@dataclass(frozen=True, slots=True)
class Canvas:
    """Images laid side by side, before the random perspective."""

    tiles: tuple[Tile, ...]
    width: int
    height: int


def draw_warped(canvas: Canvas, to_output: Matrix, imgsz: int) -> ImageArray:
    pixels = _grey(canvas.width, canvas.height)
    for tile in canvas.tiles:
        _paste(tile.source.image, pixels, tile.left, tile.top, tile.left + tile.width, tile.top + tile.height)
    # OpenCV counts from the centre of the first pixel, labels from its corner.
    to_corner = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    matrix = np.linalg.inv(to_corner) @ to_output @ to_corner
    if matrix[2, 0] or matrix[2, 1]:
        warped = cv2.warpPerspective(pixels, matrix, (imgsz, imgsz), borderValue=(PAD_VALUE,) * 3)
    else:
        warped = cv2.warpAffine(pixels, matrix[:2], (imgsz, imgsz), borderValue=(PAD_VALUE,) * 3)
    return cast(ImageArray, warped)


class Span(NamedTuple):
    """Along one axis: image pixels first..last fill output pixels start..end; output = scale * canvas + offset."""

    first: int
    last: int
    start: int
    end: int
    scale: float
    offset: float


class Patch(NamedTuple):
    """What is visible of a tile in an output that keeps axes."""

    x: Span
    y: Span

    @property
    def to_output(self) -> Axes:
        """From the canvas, where this tile covers it."""
        return Axes(self.x.scale, self.y.scale, self.x.offset, self.y.offset)


def align(canvas: Canvas, to_output: Axes, imgsz: int) -> tuple[Patch | None, ...]:
    """Where each tile shows in the output; None where nothing of it does.

    A resize ends on whole pixels, which moves a tile by up to half a pixel; so each tile has its own map.
    """
    scale_x, scale_y, offset_x, offset_y = to_output
    patches = []
    for tile in canvas.tiles:
        high, wide = tile.source.image.shape[:2]
        x = _snap(tile.left, tile.width, wide, canvas_size=canvas.width, scale=scale_x, offset=offset_x, imgsz=imgsz)
        y = _snap(tile.top, tile.height, high, canvas_size=canvas.height, scale=scale_y, offset=offset_y, imgsz=imgsz)
        patches.append(None if x is None or y is None else Patch(x, y))
    return tuple(patches)


def draw_aligned(canvas: Canvas, patches: tuple[Patch | None, ...], imgsz: int) -> ImageArray:
    """Resize what is visible of each tile into place."""
    output = _grey(imgsz, imgsz)
    for tile, patch in zip(canvas.tiles, patches, strict=True):
        if patch is not None:
            x, y = patch
            _paste(tile.source.image[y.first : y.last, x.first : x.last], output, x.start, y.start, x.end, y.end)
    return output


def _snap(
    tile_start: int, tile_size: int, pixels: int, *, canvas_size: int, scale: float, offset: float, imgsz: int
) -> Span | None:
    """The span of a tile that shows in the output, on whole pixels at both ends; None if nothing shows."""
    low = max(tile_start, 0, -offset / scale)
    high = min(tile_start + tile_size, canvas_size, (imgsz - offset) / scale)
    if low >= high:
        return None
    pixel_size = tile_size / pixels
    first = max(math.floor((low - tile_start) / pixel_size), 0)
    last = min(math.ceil((high - tile_start) / pixel_size), pixels)
    canvas_first, canvas_last = tile_start + first * pixel_size, tile_start + last * pixel_size
    start, end = round(scale * canvas_first + offset), round(scale * canvas_last + offset)
    if start >= end:
        return None
    snapped = (end - start) / (canvas_last - canvas_first)
    return Span(first, last, start, end, snapped, start - snapped * canvas_first)


def _paste(image: ImageArray, output: ImageArray, left: int, top: int, right: int, bottom: int) -> None:
    """Resize an image to this rectangle of the output, over which it may hang."""
    high, wide = output.shape[:2]
    if left >= 0 and top >= 0 and right <= wide and bottom <= high:
        _resize(image, right - left, bottom - top, output[top:bottom, left:right])
        return
    resized = _resize(image, right - left, bottom - top)
    visible = resized[max(-top, 0) : high - top, max(-left, 0) : wide - left]
    output[max(top, 0) : bottom, max(left, 0) : right] = visible


def _resize(image: ImageArray, width: int, height: int, out: ImageArray | None = None) -> ImageArray:
    # Bilinear interpolation skips pixels beyond a factor of two; halving first is 5 times as fast as INTER_AREA.
    while image.shape[1] >= 2 * width and image.shape[0] >= 2 * height:
        image = cast(ImageArray, cv2.resize(image, ((image.shape[1] + 1) // 2, (image.shape[0] + 1) // 2)))
    return cast(ImageArray, cv2.resize(image, (width, height), dst=out))


def _grey(width: int, height: int) -> ImageArray:
    return np.full((height, width, 3), PAD_VALUE, np.uint8)
