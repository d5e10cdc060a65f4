"""A part of an image at a size that can be looked at, and the people in it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from raypose.structures import FloatArray, ImageArray, People, Poses

_MARGIN = 0.15
"""Room around people, as a share of the longer side of what they fill together."""
_WORTH = 0.6
"""An image is cut only where less than this share of its area is left."""


@dataclass(frozen=True, slots=True)
class Zoom:
    """The pixels `left` to `right` and `top` to `bottom`, enlarged by `scale`."""

    left: int
    top: int
    right: int
    bottom: int
    scale: float

    @classmethod
    def on_people(cls, box_xyxy_N4: FloatArray, width: int, height: int, *, longest_px: int) -> Zoom:
        """Onto the part of a width x height image that has everybody in it; all of it where little would be saved."""
        left, top, right, bottom = 0, 0, width, height
        box_xyxy_N4 = box_xyxy_N4[np.isfinite(box_xyxy_N4).all(axis=1)]
        if len(box_xyxy_N4):
            low, high = box_xyxy_N4[:, :2].min(axis=0), box_xyxy_N4[:, 2:].max(axis=0)
            margin = _MARGIN * max(float((high - low).max()), 1.0)
            (x1, y1), (x2, y2) = (
                np.floor(low - margin).astype(int).tolist(),
                np.ceil(high + margin).astype(int).tolist(),
            )
            x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
            if 0 < (x2 - x1) * (y2 - y1) < _WORTH * width * height and x2 > x1:
                left, top, right, bottom = x1, y1, x2, y2
        return cls(left, top, right, bottom, longest_px / max(right - left, bottom - top))

    def image(self, image_HW3: ImageArray) -> ImageArray:
        """The part, resized."""
        part_HW3 = image_HW3[self.top : self.bottom, self.left : self.right]
        high, wide = part_HW3.shape[:2]
        size = max(1, round(wide * self.scale)), max(1, round(high * self.scale))
        how = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(part_HW3, size, interpolation=how), np.uint8)

    def people(self, people: People) -> People:
        """The people, where they are in the part."""
        boxes, keypoints = self._boxes(people.box_xyxy_N4), self._keypoints(people.keypoints_NK3)
        return replace(people, box_xyxy_N4=boxes, keypoints_NK3=keypoints)

    def poses(self, poses: Poses) -> Poses:
        """The poses, where they are in the part."""
        boxes, keypoints = self._boxes(poses.box_xyxy_N4), self._keypoints(poses.keypoints_NK3)
        return replace(poses, box_xyxy_N4=boxes, keypoints_NK3=keypoints)

    def _boxes(self, box_xyxy_N4: FloatArray) -> FloatArray:
        moved_N4: FloatArray = (box_xyxy_N4 - np.array([self.left, self.top] * 2, np.float32)) * np.float32(self.scale)
        return moved_N4

    def _keypoints(self, keypoints_NK3: FloatArray) -> FloatArray:
        moved_NK3 = keypoints_NK3.copy()
        moved_NK3[..., :2] = (keypoints_NK3[..., :2] - np.array([self.left, self.top], np.float32)) * np.float32(
            self.scale
        )
        return moved_NK3
