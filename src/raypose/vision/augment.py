"""Training augmentation: mosaic, random perspective, colour and flips, with Ultralytics' distributions.

Ultralytics lays four images on a canvas of twice the size and warps that. Here the geometry is composed first, and
pixels move once (see canvas.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import cv2
import numpy as np

from raypose.config.schema import AugmentConfig
from raypose.structures import FloatArray, ImageArray
from raypose.vision.canvas import Axes, Canvas, Labelled, Matrix, Patch, Tile, align, draw_aligned, draw_warped
from raypose.vision.mix import Area, blend, blend_weight, cut_area
from raypose.vision.targets import Layout, targets_of


class Design(NamedTuple):
    """A training image before its pixels move: everything that is random about it is decided."""

    canvas: Canvas
    patches: tuple[Patch | None, ...] | None
    """Where the tiles show in an output that keeps axes; None where `layout.to_output` is a matrix."""
    colour_table: ImageArray | None
    layout: Layout
    mixes: tuple[Mix, ...] = ()
    """What is mixed in, one after the other, before colours and flips."""

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Its own, and those of what is mixed in: whose people are all seen in the one image."""
        own = self.layout
        return own, *(
            mix.other.layout._replace(mirrored=own.mirrored, upside_down=own.upside_down, area=mix.area)
            for mix in self.mixes
        )


class Mix(NamedTuple):
    """Another image that goes into one: blended where there is a weight, else in an area of it."""

    other: Design
    weight: float | None = None
    area: Area | None = None


def draw_training_image(
    primary: Labelled,
    partners: Sequence[Labelled],
    options: AugmentConfig,
    *,
    imgsz: int,
    rng: np.random.Generator,
) -> tuple[ImageArray, Layout]:
    """One augmented HW3 RGB image of imgsz x imgsz: a mosaic if there are three partners, plain if there are none.

    What its people become is for `targets_of` to say.
    """
    design = design_training_image(primary, partners, options, imgsz=imgsz, rng=rng)
    return draw_design(design, imgsz), design.layout


def design_training_image(
    primary: Labelled,
    partners: Sequence[Labelled],
    options: AugmentConfig,
    *,
    imgsz: int,
    rng: np.random.Generator,
) -> Design:
    """Decide about a training image. Of its sources' pixels only their number counts."""
    canvas = _mosaic(primary, partners, imgsz, rng) if partners else _single(primary, imgsz)
    warp = _random_warp(options, imgsz, rng)
    patches: tuple[Patch | None, ...] | None = None
    to_output: Matrix | tuple[Axes, ...]
    if warp.keeps_axes:
        upright = warp.axes(canvas)
        patches = align(canvas, upright, imgsz)
        to_output = tuple(patch.to_output if patch else upright for patch in patches)
    else:
        to_output = warp.matrix(canvas)
    table = colour_table(options, rng)
    upside_down, mirrored = rng.random() < options.flipud, rng.random() < options.fliplr
    layout = Layout(
        tuple(tile.source.people for tile in canvas.tiles),
        tuple(tile.to_canvas for tile in canvas.tiles),
        canvas.width,
        canvas.height,
        to_output,
        warp.zoom,
        mirrored,
        upside_down,
    )
    return Design(canvas, patches, table, layout)


def blended(design: Design, other: Design, rng: np.random.Generator) -> Design:
    """A design with another one mixed in by MixUp."""
    return design._replace(mixes=(*design.mixes, Mix(other, weight=blend_weight(rng))))


def covered(design: Design, other: Design, imgsz: int, rng: np.random.Generator) -> Design:
    """A design with a part of another one in a place without people, or as it was where none was found."""
    area = cut_area(_boxes(design.layouts, imgsz), _boxes([other.layout], imgsz), imgsz, rng)
    return design if area is None else design._replace(mixes=(*design.mixes, Mix(other, area=area)))


def _boxes(layouts: Sequence[Layout], imgsz: int) -> FloatArray:
    """Corners in pixels of all who are seen, before flips."""
    unflipped = [layout._replace(mirrored=False, upside_down=False) for layout in layouts]
    keypoints = layouts[0].people[0].keypoints_NK3.shape[1]
    box_cxcywh_N4 = targets_of(unflipped, imgsz, range(keypoints)).box_cxcywh_N4 * np.float32(imgsz)
    low_N2 = box_cxcywh_N4[:, :2] - box_cxcywh_N4[:, 2:] / 2
    return np.concatenate([low_N2, low_N2 + box_cxcywh_N4[:, 2:]], axis=1)


def draw_design(design: Design, imgsz: int) -> ImageArray:
    """The HW3 RGB image."""
    layout = design.layout
    image = _geometry(design, imgsz)
    for other, weight, area in design.mixes:
        if area is None:
            assert weight is not None
            image = blend(image, _geometry(other, imgsz), weight)
        else:
            part = np.s_[area.top : area.bottom, area.left : area.right]
            image[part] = _geometry(other, imgsz)[part]
    _recolour(image, design.colour_table)
    if layout.upside_down or layout.mirrored:
        around_both, around_x, around_y = -1, 0, 1
        both = layout.upside_down and layout.mirrored
        image = cast(ImageArray, cv2.flip(image, around_both if both else around_x if layout.upside_down else around_y))
    return image


def _geometry(design: Design, imgsz: int) -> ImageArray:
    if design.patches is None:
        return draw_warped(design.canvas, cast(Matrix, design.layout.to_output), imgsz)
    return draw_aligned(design.canvas, design.patches, imgsz)


def scale_colours(image: ImageArray, options: AugmentConfig, rng: np.random.Generator) -> None:
    """Turn the hue and scale saturation and value by random gains, in place."""
    _recolour(image, colour_table(options, rng))


def colour_table(options: AugmentConfig, rng: np.random.Generator) -> ImageArray | None:
    """What random gains make of OpenCV's 8-bit hue, saturation and value: (256, 3); None where they do nothing."""
    draws = rng.uniform(-1, 1, 3)  # drawn in any case: what follows must not depend on the gains
    if not (options.hsv_h or options.hsv_s or options.hsv_v):
        return None
    hue, saturation, value = draws * (options.hsv_h, options.hsv_s, options.hsv_v)
    levels = np.arange(256, dtype=np.float64)
    return np.stack(
        [
            (levels + 180 * hue) % 180,  # OpenCV's 8-bit hue has 180 steps
            np.clip(levels * (1 + saturation), 0, 255),
            np.clip(levels * (1 + value), 0, 255),
        ],
        axis=-1,
    ).astype(np.uint8)


def _recolour(image: ImageArray, table: ImageArray | None) -> None:
    if table is None:
        return
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    cv2.LUT(hsv, table[None], dst=hsv)
    cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=image)


def _single(source: Labelled, imgsz: int) -> Canvas:
    width, height = _fit_long_side(source, imgsz)
    return Canvas((Tile(source, 0, 0, width, height),), width, height)


def _mosaic(primary: Labelled, partners: Sequence[Labelled], imgsz: int, rng: np.random.Generator) -> Canvas:
    """Four images that meet in a random point of a canvas of twice the size."""
    meet_x, meet_y = (int(value) for value in rng.integers(imgsz // 2, imgsz + imgsz // 2, size=2))
    tiles = []
    for number, source in enumerate((primary, *partners)):
        row, column = divmod(number, 2)
        width, height = _fit_long_side(source, imgsz)
        tiles.append(Tile(source, meet_x - (1 - column) * width, meet_y - (1 - row) * height, width, height))
    return Canvas(tuple(tiles), 2 * imgsz, 2 * imgsz)


def _fit_long_side(source: Labelled, imgsz: int) -> tuple[int, int]:
    scale = imgsz / max(source.width, source.height)
    return min(math.ceil(source.width * scale), imgsz), min(math.ceil(source.height * scale), imgsz)


class _Warp(NamedTuple):
    """A random perspective from the centre of a canvas to a place in the output. Angles are in radians."""

    perspective_x: float
    perspective_y: float
    angle: float
    zoom: float
    shear_x: float
    shear_y: float
    place_x: float
    place_y: float

    @property
    def keeps_axes(self) -> bool:
        return not (self.angle or self.shear_x or self.shear_y or self.perspective_x or self.perspective_y)

    def axes(self, canvas: Canvas) -> Axes:
        """Canvas to output, where axes are kept."""
        offset_x, offset_y = self.place_x - self.zoom * canvas.width / 2, self.place_y - self.zoom * canvas.height / 2
        return Axes(self.zoom, self.zoom, offset_x, offset_y)

    def matrix(self, canvas: Canvas) -> Matrix:
        """Canvas to output, in general."""
        to_centre = np.array([[1, 0, -canvas.width / 2], [0, 1, -canvas.height / 2], [0, 0, 1]])
        tilt = np.array([[1, 0, 0], [0, 1, 0], [self.perspective_x, self.perspective_y, 1]])
        cos, sin = self.zoom * math.cos(self.angle), self.zoom * math.sin(self.angle)
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        slant = np.array([[1, math.tan(self.shear_x), 0], [math.tan(self.shear_y), 1, 0], [0, 0, 1]])
        to_place = np.array([[1, 0, self.place_x], [0, 1, self.place_y], [0, 0, 1]])
        to_output: Matrix = to_place @ slant @ turn @ tilt @ to_centre
        return to_output


def _random_warp(options: AugmentConfig, imgsz: int, rng: np.random.Generator) -> _Warp:
    def around(middle: float, spread: float, draw: float) -> float:
        return middle - spread + 2 * spread * draw

    tilt_x, tilt_y, turn, zoom, slant_x, slant_y, x, y = rng.random(8).tolist()
    angle, shear = math.radians(options.degrees), math.radians(options.shear)
    return _Warp(
        around(0, options.perspective, tilt_x),
        around(0, options.perspective, tilt_y),
        around(0, angle, turn),
        around(1, options.scale, zoom),
        around(0, shear, slant_x),
        around(0, shear, slant_y),
        around(0.5, options.translate, x) * imgsz,
        around(0.5, options.translate, y) * imgsz,
    )
