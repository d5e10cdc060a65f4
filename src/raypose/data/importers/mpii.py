"""MPII Human Pose: its MAT-file, or the JSON that HRNet, mmpose and many others train from, beside the images.

Both count pixels from 1, as MATLAB does; here they count from 0, so 1 is taken off every coordinate.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raypose.data.image_check import image_size
from raypose.data.importers.matlab import read_mat
from raypose.data.importers.named_images import find_images, id_of
from raypose.data.importers.source import (
    Floats,
    LabelledSource,
    SourceImage,
    key_below,
    make_people,
    read_bytes,
    read_image,
    refuse_if_any,
)
from raypose.errors import DataError
from raypose.storage import ObjectStore, open_parent, open_store
from raypose.structures import People, Sample, Skeleton

MPII_PERSON = Skeleton(
    names=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax",
        "upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow",
        "left_wrist",
    ),
    edges=(
        (0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (7, 12), (12, 11), (11, 10), (7, 13),
        (13, 14), (14, 15),
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
    # MPII states none. Limbs have COCO's, neck and head CrowdPose's, pelvis and thorax those of hips and shoulders.
    sigmas=(
        0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.107, 0.079, 0.079, 0.079, 0.062, 0.072, 0.079, 0.079, 0.072, 0.062,
    ),
)  # fmt: skip
"""MPII's 16 joints in the order of its ids."""

_JOINTS = MPII_PERSON.keypoints
_REFERENCE_PX = 200.0
"""MPII's `scale` is the height of a person in units of this."""
_NOTES = (
    "OKS sigmas: COCO's by joint; upper_neck and head_top have CrowdPose's, pelvis the hips', thorax the shoulders'",
    "boxes: around the labelled joints and, in a MAT-file, the head rectangle; MPII has no boxes of people",
    "the head rectangle that PCKh divides by is not kept; raypose's pck_head_50 divides by head_top to upper_neck",
)


@dataclass(frozen=True, slots=True)
class MpiiPerson:
    """One labelled person; coordinates count from 1, as in the file. NaN stands for what is not there."""

    joints_K3: tuple[tuple[float, float, float], ...]
    head_xyxy: tuple[float, ...]
    centre_xy: tuple[float, ...]
    height_px: float

    def box(self) -> tuple[float, ...]:
        """Around joints and head; a square of the person's height where those have no extent."""
        points: list[tuple[float, ...]] = [(x, y) for x, y, visibility in self.joints_K3 if visibility]
        points += [corner for corner in (self.head_xyxy[:2], self.head_xyxy[2:]) if not math.isnan(sum(corner))]
        if points:
            xs, ys = zip(*points, strict=True)
            if min(xs) < max(xs) and min(ys) < max(ys):
                return min(xs), min(ys), max(xs), max(ys)
        (x, y), half = self.centre_xy, self.height_px / 2
        return x - half, y - half, x + half, y + half


@dataclass(frozen=True, slots=True)
class _MpiiReader:
    """Reads an image; its label is a list of MpiiPerson."""

    images: ObjectStore

    def __call__(self, image: SourceImage) -> Sample:
        content = read_image(self.images, image.key)
        width, height = image_size(content, image.key)
        return Sample(id_of(image.key), content, width, height, _people(image.label))


def read_mpii(annotations: str | Path, images: str | Path) -> LabelledSource:
    """The training images of the MAT-file, or the images of a JSON; those in which nobody is labelled are left out.

    People without a labelled joint are kept as ignored regions. The MAT-file's test images have no labels.
    """
    store, key = open_parent(str(annotations))
    where, content = store.place(key), read_bytes(store, key, "MPII's annotations")
    if content.lstrip()[:1] in (b"[", b"{"):
        people, notes = _from_json(content, where)
    else:
        people, notes = _from_mat(content, where)
    if not people:
        raise DataError(f"{where}: nobody with labelled joints; MPII's test set has no labels, so give train or valid")
    folder = open_store(str(images))
    listed = find_images(folder, [((key,), found) for key, found in people.items()], where)
    return LabelledSource(MPII_PERSON, ("person",), listed, _MpiiReader(folder), (*notes, *_NOTES))


def _people(people: list[MpiiPerson]) -> People:
    keypoints_NK3 = np.array([person.joints_K3 for person in people], np.float64)
    keypoints_NK3[..., :2] -= 1
    box_xyxy_N4: Floats = np.array([person.box() for person in people], np.float64) - 1
    return make_people(box_xyxy_N4, keypoints_NK3, np.zeros(len(people), np.int64))


def _from_json(content: bytes, where: str) -> tuple[dict[str, list[MpiiPerson]], list[str]]:
    """People by image key, in the order of the file."""
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}; expected MPII annotations") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{where}: expected a list of people, each with image, joints, joints_vis, center and scale")
    problems, people = [], defaultdict[str, list[MpiiPerson]](list)
    for index, row in enumerate(rows):
        try:
            key = key_below(row.get("image"), f"{where}: row {index}: image")
            people[key].append(_person_of_row(row, f"{where}: row {index} ({key})"))
        except DataError as error:
            problems.append(str(error))
    refuse_if_any(problems)
    return people, ["visibility: every labelled joint counts as visible, for this JSON does not tell which are hidden"]


def _person_of_row(row: dict[str, Any], where: str) -> MpiiPerson:
    joints, flags = row.get("joints"), row.get("joints_vis")
    if not isinstance(joints, list) or not isinstance(flags, list) or not len(joints) == len(flags) == _JOINTS:
        raise DataError(f"{where}: expected {_JOINTS} joints with {_JOINTS} joints_vis; the test set's JSON has none")
    points = [_finite(point, 2, f"{where}: joint {MPII_PERSON.names[k]}") for k, point in enumerate(joints)]
    visible = _finite(flags, _JOINTS, f"{where}: joints_vis")
    (scale,) = _finite([row.get("scale")], 1, f"{where}: scale")
    return MpiiPerson(
        joints_K3=tuple((x, y, 2.0 if flag > 0 else 0.0) for (x, y), flag in zip(points, visible, strict=True)),
        head_xyxy=(math.nan,) * 4,
        centre_xy=_finite(row.get("center"), 2, f"{where}: center"),
        height_px=scale * _REFERENCE_PX,
    )


def _from_mat(content: bytes, where: str) -> tuple[dict[str, list[MpiiPerson]], list[str]]:
    """People by image key, of the training images with a labelled joint."""
    release = _only(read_mat(content, where).get("RELEASE"))
    entries, train = release.get("annolist"), release.get("img_train")
    if not isinstance(entries, list) or not isinstance(train, tuple) or len(entries) != len(train):
        raise DataError(f"{where}: no RELEASE with annolist and img_train of equal length; give MPII's own MAT-file")
    problems, people, unlabelled, placeless = [], {}, 0, 0
    for index, (entry, is_train) in enumerate(zip(entries, train, strict=True)):
        if not is_train:
            continue
        place = f"{where}: annolist({index + 1})"
        try:
            key = key_below(_only(_only(entry).get("image")).get("name"), f"{place}: image")
            found = [_person_of_struct(rect, f"{place} ({key})") for rect in _structs(_only(entry).get("annorect"))]
            if key in people:
                raise DataError(f"{place}: {key} was there before; images must differ")
        except DataError as error:
            problems.append(str(error))
            continue
        placed = [person for person in found if not math.isnan(sum(person.box()))]
        if any(visibility for person in placed for *_, visibility in person.joints_K3):
            people[key] = placed
            placeless += len(found) - len(placed)
        else:
            unlabelled += 1
    refuse_if_any(problems)
    test = sum(not is_train for is_train in train)
    return people, [
        f"{test:,} test images, whose labels are not published, and {unlabelled:,} training images without a labelled"
        f" joint were left out; in the others, {placeless:,} people who have neither joints nor a place"
    ]


def _person_of_struct(rect: dict[str, Any], where: str) -> MpiiPerson:
    joints = [(0.0, 0.0, 0.0)] * _JOINTS
    for point in _structs(_only(rect.get("annopoints")).get("point")):
        joint = _number(point.get("id"), where)
        if joint not in range(_JOINTS) or joints[int(joint)][2]:
            raise DataError(
                f"{where}: joint id {joint:g} is no joint, or there twice; expected each of 0..{_JOINTS - 1}"
            )
        # MPII says of head and neck neither that they are seen nor that they are hidden.
        flag = point.get("is_visible")
        is_hidden = flag in ("0", (0,))
        x, y = _number(point.get("x"), where), _number(point.get("y"), where)
        if math.isnan(x + y):
            raise DataError(f"{where}: joint {MPII_PERSON.names[int(joint)]} has no x or y")
        joints[int(joint)] = (x, y, 1.0 if is_hidden else 2.0)
    position = _only(rect.get("objpos"))
    return MpiiPerson(
        joints_K3=tuple(joints),
        head_xyxy=tuple(_number(rect.get(corner), where) for corner in ("x1", "y1", "x2", "y2")),
        centre_xy=(_number(position.get("x"), where), _number(position.get("y"), where)),
        height_px=_number(rect.get("scale"), where) * _REFERENCE_PX,
    )


def _structs(value: Any) -> Iterator[dict[str, Any]]:
    """The structs of an array; an empty array of numbers is MATLAB's way to say none."""
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _only(value: Any) -> dict[str, Any]:
    return next(_structs(value), value if isinstance(value, dict) else {})


def _number(value: Any, where: str) -> float:
    """The one number in an array; NaN for an empty array or a field that is not there."""
    match value:
        case None | () | []:
            return math.nan
        case (int() | float() as number,) if math.isfinite(number):
            return float(number)
    raise DataError(f"{where}: {str(value)[:60]} where one number should be")


def _finite(values: Any, count: int, where: str) -> tuple[float, ...]:
    if isinstance(values, list) and len(values) == count:
        numbers: Iterable[Any] = (value for value in values if type(value) in (int, float) and abs(value) < 1e9)
        found = tuple(float(value) for value in numbers)
        if len(found) == count:
            return found
    raise DataError(f"{where}: {str(values)[:60]}, expected {count} finite number{'s' * (count > 1)}")
