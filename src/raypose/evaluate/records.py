"""Evaluation's own view of a data set: every person and every prediction of all images in flat float64 columns.

Shape legend of this package: M labelled people, P predictions, Q pairs of a prediction and a person,
K keypoints, T thresholds, R recall points, A area ranges, C classes, I images, X points of a curve, B bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from raypose.errors import DataError
from raypose.structures import AREA_PER_BOX, BoolArray, ImageResult, IntArray, People, Poses, Skeleton

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Truth:
    """All labelled people. Images are numbered in the order of their ids.

    `ignore_pose_M` and `ignore_box_M` are COCO's two rules: keypoint evaluation also ignores people without a
    single labelled keypoint, whom box evaluation counts.
    """

    image_M: IntArray
    class_M: IntArray
    box_xyxy_M4: Float64Array
    keypoints_MK3: Float64Array
    area_M: Float64Array
    ignore_pose_M: BoolArray
    ignore_box_M: BoolArray
    crowd_M: BoolArray

    def __len__(self) -> int:
        return len(self.image_M)

    def labelled(self) -> BoolArray:
        """Which keypoints somebody labelled, visible or hidden: shape (M, K)."""
        labelled_MK: BoolArray = self.keypoints_MK3[:, :, 2] > 0
        return labelled_MK


@dataclass(frozen=True, slots=True)
class Found:
    """All predictions, in the order in which they came. `area_P` decides the area range of a false positive.

    `visible_PK` is how confident the model is of each keypoint, 0 to 1.
    """

    image_P: IntArray
    class_P: IntArray
    score_P: Float64Array
    box_xyxy_P4: Float64Array
    xy_PK2: Float64Array
    visible_PK: Float64Array
    area_P: Float64Array

    def __len__(self) -> int:
        return len(self.image_P)

    def select(self, mask_P: BoolArray) -> Found:
        """Only the predictions that `mask_P` marks."""
        return Found(
            self.image_P[mask_P],
            self.class_P[mask_P],
            self.score_P[mask_P],
            self.box_xyxy_P4[mask_P],
            self.xy_PK2[mask_P],
            self.visible_PK[mask_P],
            self.area_P[mask_P],
        )


def collect(results: Sequence[ImageResult], skeleton: Skeleton, classes: int) -> tuple[Truth, Found]:
    """Flatten results, sorted by image id, so that nothing downstream depends on the order of `results`.

    Raises DataError for repeated ids and for keypoints or classes that do not fit.
    """
    ordered = sorted(results, key=lambda result: result.id)
    for before, after in pairwise(ordered):
        if before.id == after.id:
            raise DataError(f"evaluation: image {after.id!r} appears twice; every image is counted once")
    people = [result.people for result in ordered]
    poses = [result.poses for result in ordered]
    ids = [result.id for result in ordered]
    _check_keypoints("labels", people, ids, skeleton.keypoints)
    _check_keypoints("predictions", poses, ids, skeleton.keypoints)
    truth, found = _truth(people, skeleton.keypoints), _found(poses, skeleton.keypoints)
    _check_classes("labels", truth.class_M, truth.image_M, ids, classes)
    _check_classes("predictions", found.class_P, found.image_P, ids, classes)
    return truth, found


def box_area(box_xyxy_N4: Float64Array) -> Float64Array:
    """Width times height of each box in square pixels."""
    size_N2 = box_xyxy_N4[:, 2:] - box_xyxy_N4[:, :2]
    area_N: Float64Array = size_N2[:, 0] * size_N2[:, 1]
    return area_N


def _check_keypoints(label: str, parts: Sequence[People | Poses], ids: Sequence[str], wanted: int) -> None:
    for part, identity in zip(parts, ids, strict=True):
        if len(part) and part.keypoints_NK3.shape[1] != wanted:
            raise DataError(
                f"evaluation: {label} of image {identity!r} have {part.keypoints_NK3.shape[1]} keypoints,"
                f" the skeleton has {wanted}; use the skeleton of the data set"
            )


def _check_classes(label: str, class_N: IntArray, image_N: IntArray, ids: Sequence[str], classes: int) -> None:
    wrong = np.flatnonzero((class_N < 0) | (class_N >= classes))
    if wrong.size:
        raise DataError(
            f"evaluation: {label} of image {ids[image_N[wrong[0]]]!r} have class {class_N[wrong[0]]},"
            f" expected 0..{classes - 1}; name every class of the data set"
        )


def _truth(people: Sequence[People], keypoints: int) -> Truth:
    people = [*people, People.empty(keypoints)]
    box_xyxy_M4 = _column([one.box_xyxy_N4 for one in people])
    keypoints_MK3 = _column([one.keypoints_NK3.reshape(len(one), keypoints, 3) for one in people])
    area_M = _column([one.area_N for one in people])
    crowd_M = np.concatenate([one.crowd_N for one in people])
    asked_M = np.concatenate([one.ignore_N for one in people]) | crowd_M
    unlabelled_M = ~(keypoints_MK3[:, :, 2] > 0).any(axis=1)
    return Truth(
        image_M=_image_numbers(people),
        class_M=np.concatenate([one.class_N for one in people]),
        box_xyxy_M4=box_xyxy_M4,
        keypoints_MK3=keypoints_MK3,
        area_M=np.where(np.isnan(area_M), AREA_PER_BOX * box_area(box_xyxy_M4), area_M),
        ignore_pose_M=asked_M | unlabelled_M,
        ignore_box_M=crowd_M | (asked_M & ~unlabelled_M),
        crowd_M=crowd_M,
    )


def _found(poses: Sequence[Poses], keypoints: int) -> Found:
    nothing = People.empty(keypoints)
    poses = [*poses, Poses(nothing.box_xyxy_N4, nothing.area_N, nothing.class_N, nothing.keypoints_NK3)]
    box_xyxy_P4 = _column([one.box_xyxy_N4 for one in poses])
    keypoints_PK3 = _column([one.keypoints_NK3.reshape(len(one), keypoints, 3) for one in poses])
    return Found(
        image_P=_image_numbers(poses),
        class_P=np.concatenate([one.class_N for one in poses]),
        score_P=_column([one.score_N for one in poses]),
        box_xyxy_P4=box_xyxy_P4,
        xy_PK2=np.ascontiguousarray(keypoints_PK3[:, :, :2]),
        visible_PK=keypoints_PK3[:, :, 2],
        area_P=box_area(box_xyxy_P4),
    )


def _image_numbers(parts: Sequence[People] | Sequence[Poses]) -> IntArray:
    return np.repeat(np.arange(len(parts), dtype=np.int64), [len(part) for part in parts])


def _column(parts: Sequence[NDArray[np.float32]]) -> Float64Array:
    return np.concatenate(parts).astype(np.float64)
