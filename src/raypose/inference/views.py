"""Test-time augmentation: several looks at one image, and how what they found becomes one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from raypose.config.schema import STRIDE
from raypose.errors import ConfigError
from raypose.structures import FloatArray, ImageArray, IntArray, Poses

SAME_PERSON_IOU = 0.6
"""Boxes of two views that overlap more than this are of one person. Within a view, suppression has decided already."""


@dataclass(frozen=True, slots=True)
class Views:
    """At which scales the model looks at an image, and whether at its mirror image, too.

    `flip_index` says which keypoint takes whose place in a mirror image (`Skeleton.flip_index`); None: no mirror image.
    """

    scales: tuple[float, ...] = (1.0,)
    flip_index: tuple[int, ...] | None = None

    def sizes(self, imgsz: int) -> tuple[int, ...]:
        """The canvas sizes that the scales mean: multiples of the stride, all different, or ConfigError."""
        if not self.scales or not all(np.isfinite(scale) and scale > 0 for scale in self.scales):
            raise ConfigError(f"scales {_listed(self.scales)}: give one or more positive numbers, such as 0.83,1,1.17")
        sizes = tuple(max(round(imgsz * scale / STRIDE), 1) * STRIDE for scale in self.scales)
        if len(set(sizes)) < len(sizes):
            raise ConfigError(
                f"scales {_listed(self.scales)}: at imgsz {imgsz} they mean {_listed(sizes)} px, multiples of {STRIDE},"
                " and the same twice adds nothing; choose scales further apart"
            )
        return sizes

    def of(self, imgsz: int) -> list[tuple[int, bool]]:
        """(canvas size, mirrored) of each view."""
        mirrored = (False,) if self.flip_index is None else (False, True)
        return [(size, flip) for size in self.sizes(imgsz) for flip in mirrored]


def mirror(image_HW3: ImageArray) -> ImageArray:
    """The image with left and right exchanged."""
    return np.ascontiguousarray(image_HW3[:, ::-1])


def unmirror(poses: Poses, width: int, flip_index: Sequence[int]) -> Poses:
    """What was found in the mirror image of an image of this width, as it lies in the image itself."""
    box_xyxy_N4 = poses.box_xyxy_N4[:, [2, 1, 0, 3]]
    box_xyxy_N4[:, [0, 2]] = width - box_xyxy_N4[:, [0, 2]]
    keypoints_NK3 = poses.keypoints_NK3[:, list(flip_index)]
    keypoints_NK3[..., 0] = width - keypoints_NK3[..., 0]
    return Poses(box_xyxy_N4, poses.score_N, poses.class_N, keypoints_NK3)


def merge(found: Sequence[Poses], *, conf: float, max_det: int) -> Poses:
    """One answer from what each view found, best score first.

    Weighted Boxes Fusion (Solovyev et al. 2021) with its keypoints: in order of falling score, a person joins in every
    other view with the box of his class that overlaps his the most, if that is by more than SAME_PERSON_IOU. Boxes and
    keypoints are means weighted by score. Scores add up and are divided by the number of views, so that who was seen
    in one view of two counts half.
    """
    view_P = np.repeat(np.arange(len(found)), [len(poses) for poses in found])
    every = _joined(found)
    order_P = np.argsort(-every.score_N, kind="stable")
    every, view_P = _taken(every, order_P), view_P[order_P]
    groups = _groups(every, view_P, views=len(found))
    if not groups:
        return every
    merged = _joined([_mean(_taken(every, members), views=len(found)) for members in groups])
    best_N = np.argsort(-merged.score_N, kind="stable")
    return _taken(merged, best_N[merged.score_N[best_N] > conf][:max_det])


def _groups(every: Poses, view_P: IntArray, *, views: int) -> list[IntArray]:
    """Indices of those who are one person, at most one of each view; `every` is in order of falling score."""
    free_P = np.ones(len(every), np.bool_)
    groups = []
    for leader in range(len(every)):
        if not free_P[leader]:
            continue
        free_P[leader] = False
        overlap_P = _overlaps(every.box_xyxy_N4[leader], every.box_xyxy_N4)
        overlap_P[~free_P | (every.class_N != every.class_N[leader]) | (view_P == view_P[leader])] = 0.0
        members = [leader]
        near_P = np.flatnonzero(overlap_P > SAME_PERSON_IOU)
        for view in range(views):
            of_view = near_P[view_P[near_P] == view]
            if of_view.size:
                members.append(int(of_view[np.argmax(overlap_P[of_view])]))
        free_P[members] = False
        groups.append(np.array(members, np.int64))
    return groups


def _overlaps(box_xyxy_4: FloatArray, box_xyxy_P4: FloatArray) -> NDArray[np.float64]:
    """Intersection over union of one box with others."""
    one_4, other_P4 = box_xyxy_4.astype(np.float64), box_xyxy_P4.astype(np.float64)
    size_P2 = np.minimum(one_4[2:], other_P4[:, 2:]) - np.maximum(one_4[:2], other_P4[:, :2])
    shared_P = size_P2.clip(0).prod(axis=1)
    union_P = (one_4[2:] - one_4[:2]).prod() + (other_P4[:, 2:] - other_P4[:, :2]).prod(axis=1) - shared_P
    return cast("NDArray[np.float64]", shared_P / np.maximum(union_P, 1e-9))


def _mean(members: Poses, *, views: int) -> Poses:
    """One person, from the same person in some of the views."""
    weight_N = members.score_N.astype(np.float64) / members.score_N.sum(dtype=np.float64)
    return Poses(
        np.einsum("n,ni->i", weight_N, members.box_xyxy_N4)[None].astype(np.float32),
        (members.score_N.sum(dtype=np.float64, keepdims=True) / views).astype(np.float32),
        members.class_N[:1],
        np.einsum("n,nki->ki", weight_N, members.keypoints_NK3)[None].astype(np.float32),
    )


def _joined(parts: Sequence[Poses]) -> Poses:
    return Poses(
        np.concatenate([poses.box_xyxy_N4 for poses in parts]),
        np.concatenate([poses.score_N for poses in parts]),
        np.concatenate([poses.class_N for poses in parts]),
        np.concatenate([poses.keypoints_NK3 for poses in parts]),
    )


def _taken(poses: Poses, index_N: IntArray) -> Poses:
    return Poses(
        poses.box_xyxy_N4[index_N], poses.score_N[index_N], poses.class_N[index_N], poses.keypoints_NK3[index_N]
    )


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(f"{value:g}" for value in values) or "(none)"
