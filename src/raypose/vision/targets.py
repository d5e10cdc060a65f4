"""What people become in training images: the targets of a whole batch at once.

One array operation on a batch costs little more than on an image, and there are dozens of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from raypose.structures import BoolArray, FloatArray, IntArray, People
from raypose.vision.canvas import Axes, Matrix
from raypose.vision.geometry import transform_boxes, transform_points
from raypose.vision.mix import MIN_SHARE_IN_AREA, Area, share_inside

MIN_SIDE = 2.0
MIN_AREA_LEFT = 0.1
MAX_ASPECT = 100.0
"""A person is dropped whose box gets thinner than MIN_SIDE pixels, keeps less than MIN_AREA_LEFT of its area, or
gets more elongated than MAX_ASPECT."""


class Layout(NamedTuple):
    """How the people of each tile of a training image came there."""

    people: tuple[People, ...]
    to_canvas: tuple[Axes, ...]
    canvas_width: int
    canvas_height: int
    to_output: Matrix | tuple[Axes, ...]
    """From the canvas as a whole, or from what each tile covers of it."""
    zoom: float
    mirrored: bool
    upside_down: bool
    area: Area | None = None
    """What is seen of the output, before it is flipped; None for all of it."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The people of some images: boxes (cx, cy, w, h) and keypoints (x, y, visibility) relative to an image's side."""

    class_N: IntArray
    box_cxcywh_N4: FloatArray
    keypoints_NK3: FloatArray
    image_index_N: IntArray


def targets_of(images: Sequence[Layout], imgsz: int, flip_index: Sequence[int]) -> Targets:
    """The people that are still to be seen in images of imgsz x imgsz.

    People marked `ignore` are no targets. Keypoints that leave the image get visibility 0.
    """
    people = [part for image in images for part in image.people]
    tile_N = np.repeat(np.arange(len(people)), [len(part) for part in people])
    image_N = np.repeat(np.arange(len(images)), [len(image.people) for image in images])[tile_N]
    keypoints_NK3 = np.concatenate([part.keypoints_NK3 for part in people])
    # P points of each person: two corners of the box, then the keypoints.
    corner_N22 = np.concatenate([part.box_xyxy_N4 for part in people]).reshape(-1, 2, 2)
    xy_NP2 = np.concatenate([corner_N22, keypoints_NK3[..., :2]], axis=1, dtype=np.float64)

    to_canvas = [axes for image in images for axes in image.to_canvas]
    canvas_size_N2 = np.array([(image.canvas_width, image.canvas_height) for image in images])[image_N]
    canvas_NP2, inside_canvas_NP = _clipped(_mapped(xy_NP2, to_canvas, tile_N), canvas_size_N2[:, None])
    output_NP2, inside_output_NP = _clipped(_to_output(canvas_NP2, images, tile_N, image_N), np.array([imgsz, imgsz]))

    zoom_N1 = np.array([image.zoom for image in images])[image_N, None]
    keep_N = _is_seen(canvas_NP2[:, :2], output_NP2[:, :2], zoom_N1)
    keep_N &= ~np.concatenate([part.ignore_N for part in people])
    for number, image in enumerate(images):
        if image.area is not None:
            _cut(image.area, output_NP2, inside_output_NP, keep_N, image_N == number)
    keypoints_NK3[..., :2] = output_NP2[:, 2:] / imgsz
    keypoints_NK3[..., 2] *= inside_canvas_NP[:, 2:] & inside_output_NP[:, 2:]
    low_N2, high_N2 = output_NP2[:, 0], output_NP2[:, 1]
    box_cxcywh_N4 = np.concatenate([(low_N2 + high_N2) / 2, high_N2 - low_N2], axis=1, dtype=np.float64) / imgsz
    targets = Targets(
        np.concatenate([part.class_N for part in people])[keep_N],
        box_cxcywh_N4[keep_N].astype(np.float32),
        keypoints_NK3[keep_N],
        image_N[keep_N],
    )
    return _flipped(targets, images, flip_index)


def _cut(area: Area, xy_NP2: Matrix, inside_NP: BoolArray, keep_N: BoolArray, own_N: BoolArray) -> None:
    """Leave, in place, of one image's people what an area shows of them."""
    keep_N[own_N] &= share_inside(xy_NP2[own_N, :2].reshape(-1, 4), area) >= MIN_SHARE_IN_AREA
    corner_2 = np.array([area.left, area.top])
    moved_NP2, inside_area_NP = _clipped(xy_NP2[own_N] - corner_2, np.array([area.right, area.bottom]) - corner_2)
    xy_NP2[own_N] = moved_NP2 + corner_2
    inside_NP[own_N] &= inside_area_NP


def _is_seen(before_N22: Matrix, after_N22: Matrix, zoom_N1: Matrix) -> BoolArray:
    """Whose box (two corners, on the canvas and in the output) is still one to learn from."""
    before_N2 = (before_N22[:, 1] - before_N22[:, 0]) * zoom_N1
    size_N2 = after_N22[:, 1] - after_N22[:, 0]
    short_N, long_N = size_N2.min(axis=1), size_N2.max(axis=1)
    keep_N: BoolArray = (
        (short_N > MIN_SIDE)
        & (long_N < MAX_ASPECT * short_N)
        & (size_N2.prod(axis=1) > MIN_AREA_LEFT * before_N2.prod(axis=1))
    )
    return keep_N


def _mapped(xy_NP2: Matrix, axes: Sequence[Axes], tile_N: IntArray) -> Matrix:
    """Each person's points under the map of his tile."""
    axes_N4: Matrix = np.array(axes)[tile_N]
    return xy_NP2 * axes_N4[:, None, :2] + axes_N4[:, None, 2:]


def _to_output(xy_NP2: Matrix, images: Sequence[Layout], tile_N: IntArray, image_N: IntArray) -> Matrix:
    """From the canvas to the output: by axes where an image keeps them, else by its projective map."""
    upright = [Axes(1, 1, 0, 0)]
    axes = [
        axes
        for image in images
        for axes in (upright * len(image.people) if isinstance(image.to_output, np.ndarray) else image.to_output)
    ]
    output_NP2 = _mapped(xy_NP2, axes, tile_N)
    for number, image in enumerate(images):
        if isinstance(image.to_output, np.ndarray):
            own_N = image_N == number
            output_NP2[own_N] = _warped(xy_NP2[own_N], image.to_output)
    return output_NP2


def _warped(xy_NP2: Matrix, matrix: Matrix) -> Matrix:
    """Points under a projective map; the first two become the bounds of the box that they spanned."""
    box_N4 = transform_boxes(matrix, xy_NP2[:, :2].reshape(-1, 4))
    return np.concatenate([box_N4.reshape(-1, 2, 2), transform_points(matrix, xy_NP2[:, 2:])], axis=1)


def _clipped(xy_NP2: Matrix, size_N12: IntArray) -> tuple[Matrix, BoolArray]:
    """Points moved onto the border of width and height where they lie outside, and which of them did not."""
    inside_NP2 = np.minimum(np.maximum(xy_NP2, 0), size_N12)
    same_NP2 = inside_NP2 == xy_NP2
    return inside_NP2, same_NP2[..., 0] & same_NP2[..., 1]


def _flipped(targets: Targets, images: Sequence[Layout], flip_index: Sequence[int]) -> Targets:
    """Turn the people of mirrored images round in place; who is mirrored once has his left and right exchanged."""
    mirrored_N = np.array([image.mirrored for image in images])[targets.image_index_N]
    upside_down_N = np.array([image.upside_down for image in images])[targets.image_index_N]
    for axis, flipped_N in enumerate((mirrored_N, upside_down_N)):
        targets.box_cxcywh_N4[flipped_N, axis] = 1 - targets.box_cxcywh_N4[flipped_N, axis]
        targets.keypoints_NK3[flipped_N, :, axis] = 1 - targets.keypoints_NK3[flipped_N, :, axis]
    once_N = mirrored_N ^ upside_down_N
    targets.keypoints_NK3[once_N] = targets.keypoints_NK3[once_N][:, list(flip_index)]
    return targets
