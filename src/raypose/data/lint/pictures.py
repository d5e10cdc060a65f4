"""A picture of a finding: the person, cut out and drawn, guilty keypoints ringed; or two images that look alike."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from raypose.data.lint.findings import Finding
from raypose.structures import ImageArray, People, Sample, Skeleton
from raypose.vision.decode import decode_rgb
from raypose.vision.draw import draw_people, encode_jpeg, side_by_side

PICTURE_PX = 360
_MARGIN = 0.15
_RING = (230, 20, 40)


def picture_of(finding: Finding, sample: Sample, skeleton: Skeleton, twin: Sample | None) -> bytes:
    """A JPEG of PICTURE_PX along its longer side; two side by side where there is a `twin`."""
    image_HW3 = decode_rgb(sample.image, sample.id)
    if twin is not None:
        pair = _fitted(image_HW3), _fitted(decode_rgb(twin.image, twin.id))
        return encode_jpeg(side_by_side(*pair, (sample.id, twin.id)), quality=80)
    if finding.person is None:
        return encode_jpeg(_fitted(image_HW3), quality=80)
    chosen_N = np.arange(len(sample.people)) == finding.person
    # What is ignored would be drawn as a hatched region: here it is what one wants to see.
    people = replace(sample.people.select(chosen_N), ignore_N=np.zeros(1, np.bool_))
    cut_HW3, moved = _cut_out(image_HW3, people)
    drawn_HW3 = draw_people(cut_HW3, moved, skeleton)
    for index in finding.keypoints:
        x, y = np.clip(np.nan_to_num(moved.keypoints_NK3[0, index, :2]), -1e4, 1e4).round().astype(int).tolist()
        cv2.circle(drawn_HW3, (x, y), max(7, PICTURE_PX // 40), _RING, 2, cv2.LINE_AA)
    return encode_jpeg(drawn_HW3, quality=80)


def _cut_out(image_HW3: ImageArray, people: People) -> tuple[ImageArray, People]:
    """The person's box and keypoints with a margin, enlarged or shrunk; grey beyond the image."""
    labelled_K = people.keypoints_NK3[0, :, 2] > 0
    points_P2 = np.concatenate([people.box_xyxy_N4[0].reshape(2, 2), people.keypoints_NK3[0, labelled_K, :2]])
    height, width = image_HW3.shape[:2]
    # A keypoint that lies far outside may not shrink the person to a dot.
    points_P2 = np.clip(points_P2, (-width / 2, -height / 2), (1.5 * width, 1.5 * height))
    low_2, high_2 = points_P2.min(axis=0), points_P2.max(axis=0)
    margin = _MARGIN * float((high_2 - low_2).max()) + 1
    low_2, side_2 = low_2 - margin, high_2 - low_2 + 2 * margin
    scale = PICTURE_PX / float(side_2.max())
    move_23 = np.array([[scale, 0, -scale * low_2[0]], [0, scale, -scale * low_2[1]]], np.float64)
    size = max(1, round(side_2[0] * scale)), max(1, round(side_2[1] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    cut_HW3 = cv2.warpAffine(image_HW3, move_23, size, flags=how, borderValue=(128, 128, 128))
    keypoints_NK3 = people.keypoints_NK3.copy()
    keypoints_NK3[..., :2] = (keypoints_NK3[..., :2] - low_2) * scale
    box_xyxy_N4 = (people.box_xyxy_N4 - np.tile(low_2, 2)) * scale
    moved = replace(people, keypoints_NK3=keypoints_NK3, box_xyxy_N4=box_xyxy_N4.astype(np.float32))
    return np.asarray(cut_HW3, np.uint8), moved


def _fitted(image_HW3: ImageArray) -> ImageArray:
    height, width = image_HW3.shape[:2]
    scale = PICTURE_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))
