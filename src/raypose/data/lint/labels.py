"""Rules that look at one label alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from raypose.data.lint.findings import Finding
from raypose.data.manifest import is_labelled
from raypose.structures import Sample, Skeleton

IMAGE_MARGIN_PX = 2.0
BOX_MARGIN = 0.2
"""Of the box's longer side: COCO's boxes follow the segment, and a hand may lie beyond it."""

TINY_PX = 8.0


def label_findings(sample: Sample, skeleton: Skeleton, place: int, typical_size_px: float) -> Iterator[Finding]:
    """What is odd about a sample's boxes and keypoints. `typical_size_px` is half of the labelled people's box size."""
    people = sample.people
    side_N2 = people.box_xyxy_N4[:, 2:] - people.box_xyxy_N4[:, :2]
    labelled_N = is_labelled(people)
    for person in range(len(people)):
        wide_px, high_px = side_N2[person].tolist()
        if labelled_N[person]:
            yield from _misplaced(sample, skeleton, place, person)
            if min(wide_px, high_px) < TINY_PX:
                text = f"box of {wide_px:.1f}x{high_px:.1f} px, expected {TINY_PX:g} px or more each way"
                yield Finding("tiny-box", sample.id, person, (), text, "note", place)
        elif not people.crowd_N[person] and not (people.keypoints_NK3[person, :, 2] > 0).any():
            size_px = float(np.sqrt(wide_px * high_px))
            if size_px >= typical_size_px:
                text = f"box of {wide_px:.0f}x{high_px:.0f} px without a labelled keypoint"
                yield Finding("box-without-keypoints", sample.id, person, (), text, "note", place)


def _misplaced(sample: Sample, skeleton: Skeleton, place: int, person: int) -> Iterator[Finding]:
    box_xyxy, keypoints_K3 = sample.people.box_xyxy_N4[person], sample.people.keypoints_NK3[person]
    labelled_K = keypoints_K3[:, 2] > 0
    image_xyxy = np.array([0, 0, sample.width, sample.height], np.float32)
    beyond_K = np.where(labelled_K, _distance_outside(keypoints_K3[:, :2], image_xyxy), 0)
    if (outside_K := beyond_K > IMAGE_MARGIN_PX).any():
        text = f"{_far(skeleton, beyond_K, outside_K)} outside the image of {sample.width}x{sample.height} px"
        keypoints = tuple(np.flatnonzero(outside_K).tolist())
        yield Finding("keypoint-outside-image", sample.id, person, keypoints, text, "error", place)
    margin_px = BOX_MARGIN * float((box_xyxy[2:] - box_xyxy[:2]).max())
    beyond_K = np.where(labelled_K, _distance_outside(keypoints_K3[:, :2], box_xyxy), 0)
    if (outside_K := beyond_K > margin_px).any():
        text = f"{_far(skeleton, beyond_K, outside_K)} outside the box, expected at most {margin_px:.0f} px"
        keypoints = tuple(np.flatnonzero(outside_K).tolist())
        yield Finding("keypoint-outside-box", sample.id, person, keypoints, text, "warning", place)


def _distance_outside(xy_K2: NDArray[np.float32], box_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.maximum(box_xyxy[:2] - xy_K2, xy_K2 - box_xyxy[2:]).max(axis=1), np.float32)


def _far(skeleton: Skeleton, beyond_K: NDArray[np.float32], outside_K: NDArray[np.bool_]) -> str:
    return ", ".join(f"{skeleton.names[index]} {beyond_K[index]:.0f} px" for index in np.flatnonzero(outside_K))
