"""The values that travel through raypose: skeletons, people, samples, batches and predicted poses.

Shape legend, used in names everywhere: B images of a batch, N people, K keypoints, H and W pixels.
Pixel coordinates have their origin in the top left corner of the stored image, x to the right, y down.
Visibility is COCO's code: 0 not labelled, 1 labelled but hidden, 2 labelled and visible.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypose.errors import DataError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
ImageArray = NDArray[np.uint8]

AREA_PER_BOX = 0.53
"""Share of its box that a person covers, assumed where nobody measured the segment: the mean over COCO's people."""


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Keypoint names and how they belong together. A skeleton is data, never code.

    `edges` and `flip_pairs` are 0-based index pairs. `sigmas` are COCO's per-keypoint OKS constants
    (the nose is 0.026); None means that nobody stated them.
    """

    names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.names)
        if count == 0:
            raise DataError("skeleton: no keypoint names; name every keypoint in order")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise DataError(f"skeleton: keypoint name {repeated[0]!r} appears twice; names must differ")
        for label, pairs in (("edges", self.edges), ("flip_pairs", self.flip_pairs)):
            for pair in pairs:
                if len(pair) != 2 or not all(0 <= index < count for index in pair) or pair[0] == pair[1]:
                    raise DataError(
                        f"skeleton: {label} has {tuple(pair)}, but a pair is two different keypoints"
                        f" out of 0..{count - 1}; check the indices (they start at 0)"
                    )
        members = [index for pair in self.flip_pairs for index in pair]
        twice = sorted({index for index in members if members.count(index) > 1})
        if twice:
            raise DataError(
                f"skeleton: flip_pairs names keypoint {twice[0]} ({self.names[twice[0]]}) twice;"
                " each keypoint has at most one mirror image"
            )
        if self.sigmas is not None:
            if len(self.sigmas) != count:
                raise DataError(f"skeleton: {len(self.sigmas)} sigmas for {count} keypoints; give one for each")
            if not all(np.isfinite(value) and value > 0 for value in self.sigmas):
                raise DataError("skeleton: every sigma must be a positive number")

    @property
    def keypoints(self) -> int:
        """K, the number of keypoints."""
        return len(self.names)

    @property
    def flip_index(self) -> tuple[int, ...]:
        """For each keypoint, the one that takes its place in a mirrored image (itself if it has no pair)."""
        index = list(range(self.keypoints))
        for left, right in self.flip_pairs:
            index[left], index[right] = right, left
        return tuple(index)

    def difference(self, other: Skeleton) -> str:
        """What `other` has that this one has not, in words; empty where the two are equal."""
        if self.keypoints != other.keypoints:
            return f"{other.keypoints} keypoints instead of {self.keypoints}"
        different = [item.name for item in fields(self) if getattr(self, item.name) != getattr(other, item.name)]
        return f"other {' and '.join(different)}" if different else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain builtins, as `dataset.yaml`, manifests and checkpoints hold it."""
        return {
            "names": list(self.names),
            "edges": [list(pair) for pair in self.edges],
            "flip_pairs": [list(pair) for pair in self.flip_pairs],
            "sigmas": None if self.sigmas is None else list(self.sigmas),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Skeleton:
        """Inverse of `to_dict`; raises DataError that names the field which does not fit."""
        unknown = sorted(str(key) for key in raw if key not in ("names", "edges", "flip_pairs", "sigmas"))
        if unknown:
            raise DataError(f"skeleton: unknown key {unknown[0]!r}; it has names, edges, flip_pairs and sigmas")
        try:
            sigmas = raw.get("sigmas")
            return cls(
                names=tuple(str(name) for name in raw["names"]),
                edges=_index_pairs(raw.get("edges") or ()),
                flip_pairs=_index_pairs(raw.get("flip_pairs") or ()),
                sigmas=None if sigmas is None else tuple(float(value) for value in sigmas),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"skeleton: {error!r} while reading names, edges, flip_pairs, sigmas") from error


def json_ready(value: Any) -> Any:
    """The same value with None for NaN and infinity, which JSON does not have: an undefined metric is null."""
    if isinstance(value, Mapping):
        return {key: json_ready(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _index_pairs(raw: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(first), int(second)) for first, second in raw)


COCO_PERSON = Skeleton(
    names=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
        "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
        "left_knee", "right_knee", "left_ankle", "right_ankle",
    ),
    edges=(
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
        (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062,
        0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
    ),
)  # fmt: skip
"""The 17 keypoints of COCO, with the sigmas of its keypoint evaluation."""


@dataclass(frozen=True, slots=True)
class People:
    """What is labelled in one image, in pixel coordinates of the stored image.

    `ignore_N` marks regions that evaluation neither rewards nor punishes and that the loss never sees
    (crowds, people without a single labelled keypoint); `crowd_N` says which of them are crowds, which may
    absorb several predictions. `area_N` is the segment area in square pixels, NaN where nobody measured it.
    """

    box_xyxy_N4: FloatArray
    keypoints_NK3: FloatArray
    class_N: IntArray
    area_N: FloatArray
    ignore_N: BoolArray
    crowd_N: BoolArray

    def __post_init__(self) -> None:
        count = len(self.box_xyxy_N4)
        expected = {
            "box_xyxy_N4": (self.box_xyxy_N4.shape, (count, 4)),
            "keypoints_NK3": ((*self.keypoints_NK3.shape[:1], *self.keypoints_NK3.shape[2:]), (count, 3)),
            "class_N": (self.class_N.shape, (count,)),
            "area_N": (self.area_N.shape, (count,)),
            "ignore_N": (self.ignore_N.shape, (count,)),
            "crowd_N": (self.crowd_N.shape, (count,)),
        }
        for name, (found, wanted) in expected.items():
            if found != wanted:
                raise DataError(f"people: {name} has shape {found}, expected {wanted}")

    def __len__(self) -> int:
        return len(self.box_xyxy_N4)

    @classmethod
    def empty(cls, keypoints: int) -> People:
        """Nobody, for a skeleton of `keypoints` points."""
        return cls(
            np.zeros((0, 4), np.float32),
            np.zeros((0, keypoints, 3), np.float32),
            np.zeros(0, np.int64),
            np.zeros(0, np.float32),
            np.zeros(0, np.bool_),
            np.zeros(0, np.bool_),
        )

    def select(self, mask_N: BoolArray) -> People:
        """Only the people that `mask_N` marks."""
        return People(
            self.box_xyxy_N4[mask_N],
            self.keypoints_NK3[mask_N],
            self.class_N[mask_N],
            self.area_N[mask_N],
            self.ignore_N[mask_N],
            self.crowd_N[mask_N],
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image: its encoded bytes as they came (JPEG, PNG, …) and the people in it."""

    id: str
    image: bytes
    width: int
    height: int
    people: People


@dataclass(frozen=True, slots=True)
class Batch:
    """Images ready for the model, with their targets in Ultralytics' layout.

    Targets are flat over the batch: person i belongs to image `image_index_N[i]`. Boxes (cx, cy, w, h) and
    keypoints (x, y, visibility) are normalised by the width and height of the batch's images.
    """

    image_B3HW: ImageArray  # RGB
    class_N: IntArray
    box_cxcywh_N4: FloatArray
    keypoints_NK3: FloatArray
    image_index_N: IntArray
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image_B3HW)


@dataclass(frozen=True, slots=True)
class Poses:
    """People found in one image, best score first, in pixel coordinates of the stored image.

    The third value of a keypoint is the model's confidence that it is visible, 0 to 1.
    """

    box_xyxy_N4: FloatArray
    score_N: FloatArray
    class_N: IntArray
    keypoints_NK3: FloatArray

    def __len__(self) -> int:
        return len(self.score_N)

    @classmethod
    def empty(cls, keypoints: int) -> Poses:
        """Nobody found, for a skeleton of `keypoints` points."""
        return cls(
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.float32),
            np.zeros(0, np.int64),
            np.zeros((0, keypoints, 3), np.float32),
        )


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What was labelled and what was predicted in one image: all that evaluation needs to know of it."""

    id: str
    width: int
    height: int
    people: People
    poses: Poses
