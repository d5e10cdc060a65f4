"""Training augmentation: mosaic, random perspective, colour and flips, with Ultralytics' distributions.

Ultralytics lays four images on a canvas of twice the size and warps that. Here the geometry is composed first and
each image is resized once, straight to where it ends up; only a rotation, shear or perspective needs the canvas.
Coordinates are continuous pixels, so labels follow their pixels exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from raypose.config.schema import AugmentConfig
from raypose.structures import FloatArray, ImageArray, IntArray, People
from raypose.vision.geometry import (
    PAD_VALUE,
    clip_boxes,
    clip_points,
    transform_boxes,
    transform_points,
    xyxy_to_cxcywh,
)

Matrix = NDArray[np.float64]

MIN_SIDE = 2.0
MIN_AREA_LEFT = 0.1
MAX_ASPECT = 100.0
"""A person is dropped whose box gets thinner than MIN_SIDE pixels, keeps less than MIN_AREA_LEFT of its area, or
gets more elongated than MAX_ASPECT."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A decoded image and its people, whose coordinates refer to width x height pixels.

    `image` (HW3 RGB) may be smaller than that: large images are decoded at a fraction of their size.
    """

    image: ImageArray
    people: People
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class TrainingImage:
    """A square HW3 RGB image; boxes (cx, cy, w, h) and keypoints (x, y, visibility) relative to its side."""

    image: ImageArray
    class_N: IntArray
    box_cxcywh_N4: FloatArray
    keypoints_NK3: FloatArray


class _Tile(NamedTuple):
    """An image and the whole pixels of the canvas that it fills; it may hang over the canvas."""

    source: Labelled
    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class _Canvas:
    """Images laid side by side, before the random perspective."""

    tiles: tuple[_Tile, ...]
    width: int
    height: int


def build_training_image(
    primary: Labelled,
    partners: Sequence[Labelled],
    options: AugmentConfig,
    *,
    imgsz: int,
    flip_index: Sequence[int],
    rng: np.random.Generator,
) -> TrainingImage:
    """One augmented image of imgsz x imgsz: a mosaic if there are three partners, plain if there are none.

    People marked `ignore` are no targets. Keypoints that leave the image get visibility 0.
    """
    canvas = _mosaic(primary, partners, imgsz, rng) if partners else _single(primary, imgsz)
    to_output, zoom = _random_perspective(canvas, options, imgsz, rng)
    if _keeps_axes(to_output):
        image, tile_to_output = _draw_aligned(canvas, to_output, imgsz)
    else:
        image, tile_to_output = _draw_warped(canvas, to_output, imgsz), [to_output] * len(canvas.tiles)
    class_N, box_xyxy_N4, keypoints_NK3 = _targets(canvas, tile_to_output, zoom, imgsz)
    scale_colours(image, options, rng)
    plain = TrainingImage(
        image,
        class_N,
        xyxy_to_cxcywh(box_xyxy_N4) / np.float32(imgsz),
        (keypoints_NK3 / (imgsz, imgsz, 1)).astype(np.float32),
    )
    upside_down, mirrored = rng.random() < options.flipud, rng.random() < options.fliplr
    return _flip(plain, flip_index, mirrored=mirrored, upside_down=upside_down)


def scale_colours(image: ImageArray, options: AugmentConfig, rng: np.random.Generator) -> None:
    """Turn the hue and scale saturation and value by random gains, in place."""
    hue, saturation, value = rng.uniform(-1, 1, 3) * (options.hsv_h, options.hsv_s, options.hsv_v)
    if not (options.hsv_h or options.hsv_s or options.hsv_v):
        return
    levels = np.arange(256, dtype=np.float64)
    table = np.stack(
        [
            (levels + 180 * hue) % 180,  # OpenCV's 8-bit hue has 180 steps
            np.clip(levels * (1 + saturation), 0, 255),
            np.clip(levels * (1 + value), 0, 255),
        ],
        axis=-1,
    ).astype(np.uint8)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    cv2.LUT(hsv, table[None], dst=hsv)
    cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=image)


def _single(source: Labelled, imgsz: int) -> _Canvas:
    width, height = _fit_long_side(source, imgsz)
    return _Canvas((_Tile(source, 0, 0, width, height),), width, height)


def _mosaic(primary: Labelled, partners: Sequence[Labelled], imgsz: int, rng: np.random.Generator) -> _Canvas:
    """Four images that meet in a random point of a canvas of twice the size."""
    meet_x, meet_y = (int(value) for value in rng.integers(imgsz // 2, imgsz + imgsz // 2, size=2))
    tiles = []
    for number, source in enumerate((primary, *partners)):
        row, column = divmod(number, 2)
        width, height = _fit_long_side(source, imgsz)
        tiles.append(_Tile(source, meet_x - (1 - column) * width, meet_y - (1 - row) * height, width, height))
    return _Canvas(tuple(tiles), 2 * imgsz, 2 * imgsz)


def _fit_long_side(source: Labelled, imgsz: int) -> tuple[int, int]:
    scale = imgsz / max(source.width, source.height)
    return min(math.ceil(source.width * scale), imgsz), min(math.ceil(source.height * scale), imgsz)


def _random_perspective(
    canvas: _Canvas, options: AugmentConfig, imgsz: int, rng: np.random.Generator
) -> tuple[Matrix, float]:
    """A map from the canvas to the output about their centres, and how much of it is zoom."""
    perspective_x, perspective_y = rng.uniform(-options.perspective, options.perspective, 2)
    angle = math.radians(rng.uniform(-options.degrees, options.degrees))
    zoom = rng.uniform(1 - options.scale, 1 + options.scale)
    shear_x, shear_y = np.tan(np.radians(rng.uniform(-options.shear, options.shear, 2)))
    centre_x, centre_y = rng.uniform(0.5 - options.translate, 0.5 + options.translate, 2) * imgsz

    to_centre = np.array([[1, 0, -canvas.width / 2], [0, 1, -canvas.height / 2], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, 1, 0], [perspective_x, perspective_y, 1]])
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    slant = np.array([[1, shear_x, 0], [shear_y, 1, 0], [0, 0, 1]])
    to_place = np.array([[1, 0, centre_x], [0, 1, centre_y], [0, 0, 1]])
    return to_place @ slant @ turn @ tilt @ to_centre, zoom


def _keeps_axes(matrix: Matrix) -> bool:
    return not (matrix[0, 1] or matrix[1, 0] or matrix[2, 0] or matrix[2, 1])


def _draw_warped(canvas: _Canvas, to_output: Matrix, imgsz: int) -> ImageArray:
    pixels = _grey(canvas.width, canvas.height)
    for tile in canvas.tiles:
        left, top = max(tile.left, 0), max(tile.top, 0)
        right, bottom = min(tile.left + tile.width, canvas.width), min(tile.top + tile.height, canvas.height)
        resized = _resize(tile.source.image, tile.width, tile.height)
        pixels[top:bottom, left:right] = resized[
            top - tile.top : bottom - tile.top, left - tile.left : right - tile.left
        ]
    # OpenCV counts from the centre of the first pixel, labels from its corner.
    to_corner = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    matrix = np.linalg.inv(to_corner) @ to_output @ to_corner
    if matrix[2, 0] or matrix[2, 1]:
        warped = cv2.warpPerspective(pixels, matrix, (imgsz, imgsz), borderValue=(PAD_VALUE,) * 3)
    else:
        warped = cv2.warpAffine(pixels, matrix[:2], (imgsz, imgsz), borderValue=(PAD_VALUE,) * 3)
    return cast(ImageArray, warped)


def _draw_aligned(canvas: _Canvas, to_output: Matrix, imgsz: int) -> tuple[ImageArray, list[Matrix]]:
    """Resize what is visible of each tile into place.

    A resize ends on whole pixels, which moves a tile by up to half a pixel; so each tile has its own map.
    """
    output = _grey(imgsz, imgsz)
    tile_to_output = []
    for tile in canvas.tiles:
        pixels_high, pixels_wide = tile.source.image.shape[:2]
        (scale_x, _, offset_x), (_, scale_y, offset_y) = to_output[:2]
        x = _snap(
            tile.left, tile.width, pixels_wide, canvas_size=canvas.width, scale=scale_x, offset=offset_x, imgsz=imgsz
        )
        y = _snap(
            tile.top, tile.height, pixels_high, canvas_size=canvas.height, scale=scale_y, offset=offset_y, imgsz=imgsz
        )
        if x is None or y is None:
            tile_to_output.append(to_output)
            continue
        visible = tile.source.image[y.first : y.last, x.first : x.last]
        resized = _resize(visible, x.end - x.start, y.end - y.start)
        top, left = max(y.start, 0), max(x.start, 0)
        bottom, right = min(y.end, imgsz), min(x.end, imgsz)
        output[top:bottom, left:right] = resized[top - y.start : bottom - y.start, left - x.start : right - x.start]
        tile_to_output.append(np.array([[x.scale, 0, x.offset], [0, y.scale, y.offset], [0, 0, 1]]))
    return output, tile_to_output


class _Span(NamedTuple):
    """Along one axis: image pixels first..last fill output pixels start..end; output = scale * canvas + offset."""

    first: int
    last: int
    start: int
    end: int
    scale: float
    offset: float


def _snap(
    tile_start: int, tile_size: int, pixels: int, *, canvas_size: int, scale: float, offset: float, imgsz: int
) -> _Span | None:
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
    return _Span(first, last, start, end, snapped, start - snapped * canvas_first)


def _resize(image: ImageArray, width: int, height: int) -> ImageArray:
    # Bilinear interpolation skips pixels beyond a factor of two; halving first is 5 times as fast as INTER_AREA.
    while image.shape[1] >= 2 * width and image.shape[0] >= 2 * height:
        image = cast(ImageArray, cv2.resize(image, ((image.shape[1] + 1) // 2, (image.shape[0] + 1) // 2)))
    if image.shape[:2] == (height, width):
        return image
    return cast(ImageArray, cv2.resize(image, (width, height)))


def _grey(width: int, height: int) -> ImageArray:
    return np.full((height, width, 3), PAD_VALUE, np.uint8)


def _targets(
    canvas: _Canvas, tile_to_output: Sequence[Matrix], zoom: float, imgsz: int
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Classes, boxes (x1, y1, x2, y2) and keypoints of the people that are still to be seen, in output pixels."""
    people_of_tile = [tile.source.people.select(~tile.source.people.ignore_N) for tile in canvas.tiles]
    tile_N = np.repeat(np.arange(len(canvas.tiles)), [len(people) for people in people_of_tile])
    to_canvas_N33 = np.stack([_placement(tile) for tile in canvas.tiles])[tile_N]
    to_output_N33 = np.stack(tile_to_output)[tile_N]

    box_xyxy_N4 = np.concatenate([people.box_xyxy_N4 for people in people_of_tile])
    on_canvas_N4 = clip_boxes(transform_boxes(to_canvas_N33, box_xyxy_N4), canvas.width, canvas.height)
    box_xyxy_N4 = clip_boxes(transform_boxes(to_output_N33, on_canvas_N4), imgsz, imgsz)
    keypoints_NK3 = np.concatenate([people.keypoints_NK3 for people in people_of_tile])
    keypoints_NK3 = _move_keypoints(keypoints_NK3, to_canvas_N33, canvas.width, canvas.height)
    keypoints_NK3 = _move_keypoints(keypoints_NK3, to_output_N33, imgsz, imgsz)
    class_N = np.concatenate([people.class_N for people in people_of_tile])

    size_before_N2 = (on_canvas_N4[:, 2:] - on_canvas_N4[:, :2]) * zoom
    size_N2 = box_xyxy_N4[:, 2:] - box_xyxy_N4[:, :2]
    short_N, long_N = size_N2.min(axis=1), size_N2.max(axis=1)
    keep_N = (
        (short_N > MIN_SIDE)
        & (long_N < MAX_ASPECT * short_N)
        & (size_N2.prod(axis=1) > MIN_AREA_LEFT * size_before_N2.prod(axis=1))
    )
    return class_N[keep_N], box_xyxy_N4[keep_N], keypoints_NK3[keep_N]


def _placement(tile: _Tile) -> Matrix:
    """From the coordinates of an image's people to the canvas."""
    scale_x, scale_y = tile.width / tile.source.width, tile.height / tile.source.height
    return np.array([[scale_x, 0, tile.left], [0, scale_y, tile.top], [0, 0, 1]])


def _move_keypoints(keypoints_NK3: FloatArray, matrix_N33: Matrix, width: int, height: int) -> FloatArray:
    """Keypoints under a map; outside width x height they lose their visibility and end up on the border."""
    xy_NK2 = transform_points(matrix_N33, keypoints_NK3[..., :2])
    inside_NK2 = clip_points(xy_NK2, width, height)
    visible_NK1 = np.where((xy_NK2 == inside_NK2).all(axis=-1, keepdims=True), keypoints_NK3[..., 2:], 0)
    return np.concatenate([inside_NK2, visible_NK1], axis=-1)


def _flip(plain: TrainingImage, flip_index: Sequence[int], *, mirrored: bool, upside_down: bool) -> TrainingImage:
    image, box_cxcywh_N4, keypoints_NK3 = plain.image, plain.box_cxcywh_N4.copy(), plain.keypoints_NK3.copy()
    for axis, flipped in enumerate((mirrored, upside_down)):
        if flipped:
            image = cast(ImageArray, cv2.flip(image, 1 - axis))
            box_cxcywh_N4[:, axis] = 1 - box_cxcywh_N4[:, axis]
            keypoints_NK3[..., axis] = 1 - keypoints_NK3[..., axis]
            keypoints_NK3 = keypoints_NK3[:, list(flip_index)]
    return TrainingImage(image, plain.class_N, box_cxcywh_N4, keypoints_NK3)
