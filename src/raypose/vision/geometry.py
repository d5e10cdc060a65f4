"""Letterboxing and its inverse, and the small conversions of boxes and points that everything shares.

Coordinates are continuous pixels: (0, 0) is the outer corner of the first pixel, whose centre is (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from raypose.structures import FloatArray, ImageArray

Real = TypeVar("Real", np.float32, np.float64)

PAD_VALUE = 114
"""Grey that surrounds images, as in every published YOLO weight's training."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where an image of width x height lies on its canvas: scaled evenly, centred, padded with grey.

    The rounding follows Ultralytics' `LetterBox` and `scale_boxes`, so that predictions agree with it.
    """

    width: int
    height: int
    scaled_width: int
    scaled_height: int
    left: int
    top: int
    canvas_width: int
    canvas_height: int

    @classmethod
    def fit(cls, width: int, height: int, imgsz: int, *, stride: int = 32, square: bool) -> Letterbox:
        """Fit into imgsz x imgsz; unless `square`, padded only up to the next multiple of `stride`."""
        scale = min(imgsz / width, imgsz / height)
        scaled_width, scaled_height = max(round(width * scale), 1), max(round(height * scale), 1)
        spare_x, spare_y = imgsz - scaled_width, imgsz - scaled_height
        if not square:
            spare_x, spare_y = spare_x % stride, spare_y % stride
        return cls(
            width,
            height,
            scaled_width,
            scaled_height,
            left=round(spare_x / 2 - 0.1),
            top=round(spare_y / 2 - 0.1),
            canvas_width=scaled_width + spare_x,
            canvas_height=scaled_height + spare_y,
        )

    def apply(self, image: ImageArray) -> ImageArray:
        """Scale and pad an HW3 image of the size this letterbox was fitted to."""
        canvas = np.empty((self.canvas_height, self.canvas_width, 3), np.uint8)
        bottom, right = self.top + self.scaled_height, self.left + self.scaled_width
        inner = canvas[self.top : bottom, self.left : right]
        if (self.width, self.height) == (self.scaled_width, self.scaled_height):
            inner[:] = image
        else:
            cv2.resize(image, (self.scaled_width, self.scaled_height), dst=inner, interpolation=cv2.INTER_LINEAR)
        for border in (canvas[: self.top], canvas[bottom:], canvas[:, : self.left], canvas[:, right:]):
            border.fill(PAD_VALUE)
        return canvas

    def to_canvas(self, xy: FloatArray) -> FloatArray:
        """Points (..., 2) from the image to the canvas."""
        return (xy * self._scale() + (self.left, self.top)).astype(xy.dtype)

    def to_image(self, xy: FloatArray) -> FloatArray:
        """Points (..., 2) from the canvas back to the image, wherever they land."""
        return ((xy - (self.left, self.top)) / self._scale()).astype(xy.dtype)

    def to_image_clipped(self, xy: FloatArray) -> FloatArray:
        """Points (..., 2) from the canvas back to the image, moved onto its border where they miss it."""
        return clip_points(self.to_image(xy), self.width, self.height)

    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.scaled_width / self.width, self.scaled_height / self.height])


def clip_points(xy: FloatArray, width: float, height: float) -> FloatArray:
    """Points (..., 2) moved onto the border of a width x height image where they lie outside."""
    clipped: FloatArray = np.clip(xy, 0, np.array([width, height], xy.dtype))
    return clipped


def transform_points(matrix: NDArray[np.float64], xy_NK2: NDArray[Real]) -> NDArray[Real]:
    """Points (..., 2) under a projective map (3, 3)."""
    mapped_NK3 = xy_NK2 @ matrix[:, :2].T + matrix[:, 2]
    return (mapped_NK3[..., :2] / mapped_NK3[..., 2:]).astype(xy_NK2.dtype)


def transform_boxes(matrix: NDArray[np.float64], box_xyxy_N4: NDArray[Real]) -> NDArray[Real]:
    """Bounds of each box's four corners under a projective map (3, 3)."""
    corners_N42 = box_xyxy_N4[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    mapped_N42 = transform_points(matrix, corners_N42)
    return np.concatenate([mapped_N42.min(axis=1), mapped_N42.max(axis=1)], axis=1)
