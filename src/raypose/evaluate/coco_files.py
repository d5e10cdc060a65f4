"""Read COCO keypoint annotation and result files, in float64 and with errors that name the entry.

What is read here is compared with what pycocotools prints, so its quirks are kept, each with a warning that says so.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raypose.errors import DataError
from raypose.evaluate.records import Float64Array, Found, Truth
from raypose.structures import AREA_PER_BOX, COCO_PERSON, BoolArray, Skeleton


@dataclass(frozen=True, slots=True)
class Annotations:
    """What an annotation file says: its people, its skeleton, and the numbers given to its image and category ids.

    `void_M` marks people whose id is 0: pycocotools takes a match with them for a miss. `crowd_index_I` is CrowdPose's
    `crowdIndex` of each image, NaN where the file does not state it.
    """

    truth: Truth
    void_M: BoolArray
    skeleton: Skeleton
    images: Mapping[Hashable, int]
    classes: Mapping[Hashable, int]
    crowd_index_I: Float64Array


def read_annotations(path: Path) -> Annotations:
    """Load a COCO keypoint file; DataError names the entry that does not fit.

    A missing `area` counts as 0.53 of the box, a missing `num_keypoints` is counted, a missing `iscrowd` is 0, and
    missing or empty `keypoints` are all unlabelled.
    """
    raw = _load(path)
    if not isinstance(raw, dict):
        raise DataError(f"{path}: holds a {type(raw).__name__}, expected an object with images and annotations")
    people = _entries(raw, "annotations", path)
    categories = _entries(raw, "categories", path)
    image_entries = _entries(raw, "images", path)
    images = _numbered(image_entries, f"{path}: images")
    classes = _numbered(categories, f"{path}: categories")
    skeleton = _skeleton(categories, people, path)
    counted = _as_pycocotools_counts(people, images, classes, path)
    return Annotations(
        truth=_truth(counted, skeleton.keypoints, images, classes, path),
        void_M=np.array([person.get("id") == 0 for _, person in counted], np.bool_),
        skeleton=skeleton,
        images=images,
        classes=classes,
        crowd_index_I=_crowd_index(image_entries, images, path),
    )


def read_results(path: Path, annotations: Annotations) -> Found:
    """Load a list of {image_id, category_id, keypoints, score}; DataError names the entry that does not fit.

    Results of categories that the annotations lack are left out, as in COCO. The area of a result is that of its
    `bbox` when the first result has one, else that of the box around its keypoints: COCO's own loader does so.
    """
    raw = _load(path)
    if not isinstance(raw, list):
        raise DataError(f"{path}: holds a {type(raw).__name__}, expected a list of results")
    count, keypoints = len(raw), annotations.skeleton.keypoints
    image_P, class_P, score_P = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count)
    keypoints_P, box_xywh_P4 = np.zeros((count, 3 * keypoints)), np.zeros((count, 4))
    boxed = bool(raw) and isinstance(raw[0], dict) and bool(raw[0].get("bbox"))
    for p, result in enumerate(raw):
        where = f"{path}: result {p}"
        if not isinstance(result, dict):
            raise DataError(f"{where} is a {type(result).__name__}, expected an object")
        image_P[p] = _look_up(annotations.images, result, "image_id", where)
        class_P[p] = annotations.classes.get(_identity(result, "category_id", where), -1)
        score_P[p] = _numbers(result, "score", (), where)
        keypoints_P[p] = _numbers(result, "keypoints", (3 * keypoints,), where)
        if boxed:
            box_xywh_P4[p] = _numbers(result, "bbox", (4,), where)
    keypoints_PK3 = keypoints_P.reshape(count, keypoints, 3)
    xy_PK2 = keypoints_PK3[:, :, :2]
    if not boxed:
        box_xywh_P4 = np.concatenate([xy_PK2.min(axis=1), np.ptp(xy_PK2, axis=1)], axis=1)
    known_P = class_P >= 0
    return Found(
        image_P=image_P[known_P],
        class_P=class_P[known_P],
        score_P=score_P[known_P],
        box_xyxy_P4=_corners(box_xywh_P4[known_P]),
        xy_PK2=xy_PK2[known_P],
        visible_PK=keypoints_PK3[known_P, :, 2],
        area_P=np.prod(box_xywh_P4[known_P, 2:], axis=1),
    )


def _as_pycocotools_counts(
    people: Sequence[Mapping[str, Any]],
    images: Mapping[Hashable, int],
    classes: Mapping[Hashable, int],
    path: Path,
) -> list[tuple[int, Mapping[str, Any]]]:
    """The annotations that pycocotools looks at, each with its place in the file, in the order in which it does.

    Those of unlisted images and categories are not seen. Where several share an id, each stands for the last of them,
    but is looked at when the turn of its own image comes.
    """
    listed = []
    for place, person in enumerate(people):
        where = f"{path}: annotations[{place}]"
        image, category = _identity(person, "image_id", where), _identity(person, "category_id", where)
        if image in images and category in classes:
            listed.append((place, person))
    last_of = {_identity(person, "id", f"{path}: annotations[{m}]"): (m, person) for m, person in listed}
    listed.sort(key=lambda entry: images[entry[1]["image_id"]])
    counted = [last_of[person["id"]] for _, person in listed]
    _warn(path, len(people) - len(listed), "annotations are of images or categories that it does not list; left out")
    repeated = len(counted) - len(last_of)
    _warn(path, repeated, "annotations have the id of a later one, which counts in their place; give each its own")
    _warn(path, int(0 in last_of), "annotation has id 0: matches with it are misses, as in pycocotools; number from 1")
    return counted


def _warn(path: Path, count: int, what: str) -> None:
    if count:
        warnings.warn(f"{path}: {count} {what}", stacklevel=4)


def _truth(
    people: Sequence[tuple[int, Mapping[str, Any]]],
    keypoints: int,
    images: Mapping[Hashable, int],
    classes: Mapping[Hashable, int],
    path: Path,
) -> Truth:
    count = len(people)
    image_M, class_M = np.zeros(count, np.int64), np.zeros(count, np.int64)
    box_xywh_M4, keypoints_M = np.zeros((count, 4)), np.zeros((count, 3 * keypoints))
    area_M, crowd_M, blank_M = np.full(count, np.nan), np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    for m, (place, person) in enumerate(people):
        where = f"{path}: annotations[{place}]"
        image_M[m] = _look_up(images, person, "image_id", where)
        class_M[m] = _look_up(classes, person, "category_id", where)
        box_xywh_M4[m] = _numbers(person, "bbox", (4,), where)
        stated = person.get("num_keypoints")
        if person.get("keypoints") or stated:
            keypoints_M[m] = _numbers(person, "keypoints", (3 * keypoints,), where)
        crowd_M[m] = bool(person.get("iscrowd"))
        if person.get("area") is not None:
            area_M[m] = _numbers(person, "area", (), where)
        blank_M[m] = not ((keypoints_M[m, 2::3] > 0).any() if stated is None else stated)
    return Truth(
        image_M=image_M,
        class_M=class_M,
        box_xyxy_M4=_corners(box_xywh_M4),
        keypoints_MK3=keypoints_M.reshape(count, keypoints, 3),
        area_M=np.where(np.isnan(area_M), AREA_PER_BOX * np.prod(box_xywh_M4[:, 2:], axis=1), area_M),
        ignore_pose_M=crowd_M | blank_M,
        ignore_box_M=crowd_M,
        crowd_M=crowd_M,
    )


def _crowd_index(entries: Sequence[Mapping[str, Any]], images: Mapping[Hashable, int], path: Path) -> Float64Array:
    index_I = np.full(len(images), np.nan)
    for place, entry in enumerate(entries):
        if entry.get("crowdIndex") is not None:
            index_I[images[entry["id"]]] = _numbers(entry, "crowdIndex", (), f"{path}: images[{place}]")
    return index_I


def _skeleton(categories: Sequence[Mapping[str, Any]], people: Sequence[Mapping[str, Any]], path: Path) -> Skeleton:
    """Names and sigmas of the first category with keypoints. 17 keypoints without sigmas have COCO's."""
    named = [category for category in categories if category.get("keypoints")]
    if named:
        names, sigmas = tuple(map(str, named[0]["keypoints"])), named[0].get("sigmas")
    else:
        lengths = [len(person["keypoints"]) for person in people if isinstance(person.get("keypoints"), list)]
        if not lengths:
            raise DataError(f"{path}: no category and no annotation has keypoints; give a COCO keypoint file")
        names, sigmas = tuple(map(str, range(lengths[0] // 3))), None
    odd = [category for category in named if len(category["keypoints"]) != len(names)]
    if odd:
        raise DataError(
            f"{path}: category {odd[0]['id']!r} has {len(odd[0]['keypoints'])} keypoints,"
            f" {named[0]['id']!r} has {len(names)}; evaluate them one at a time"
        )
    if sigmas is None and len(names) == COCO_PERSON.keypoints:
        sigmas = COCO_PERSON.sigmas
    return Skeleton.from_dict({"names": names, "sigmas": sigmas})


def _load(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise DataError(f"{path}: is no JSON ({error}); give a COCO JSON file") from error


def _entries(raw: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    entries = raw.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path}: has no list of objects {key!r}; give a COCO keypoint annotation file")
    return entries


def _numbered(entries: Sequence[Mapping[str, Any]], where: str) -> dict[Hashable, int]:
    """Ids in ascending order, each with its place: COCO breaks ties of equal scores in this order of images."""
    ids = {_identity(entry, "id", f"{where}[{index}]") for index, entry in enumerate(entries)}
    try:
        return {identity: number for number, identity in enumerate(sorted(ids))}
    except TypeError as error:
        raise DataError(f"{where}: some ids are text and some are numbers; use one kind") from error


def _identity(entry: Mapping[str, Any], key: str, where: str) -> Any:
    identity = entry.get(key)
    is_number = isinstance(identity, int) or (isinstance(identity, float) and math.isfinite(identity))
    if isinstance(identity, bool) or not (is_number or isinstance(identity, str)):
        raise DataError(f"{where}: {key} is {identity!r}, expected a number or text")
    return identity


def _look_up(numbers: Mapping[Hashable, int], entry: Mapping[str, Any], key: str, where: str) -> int:
    identity = _identity(entry, key, where)
    if identity not in numbers:
        example = next(iter(numbers), None)
        raise DataError(f"{where}: {key} {identity!r} is not in the annotations, whose ids are like {example!r}")
    return numbers[identity]


def _numbers(entry: Mapping[str, Any], key: str, shape: tuple[int, ...], where: str) -> Float64Array:
    expected = f"{math.prod(shape)} finite numbers in a flat list" if shape else "a finite number"
    try:
        values = np.asarray(entry[key])
    except KeyError as error:
        raise DataError(f"{where}: has no {key}, expected {expected}") from error
    except ValueError as error:
        raise DataError(f"{where}: {key} is ragged, expected {expected}") from error
    if values.shape != shape or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        found = f"{values.size} values" if values.ndim else repr(entry[key])
        raise DataError(f"{where}: {key} has {found}, expected {expected}")
    return values.astype(np.float64)


def _corners(box_xywh_N4: Float64Array) -> Float64Array:
    return np.concatenate([box_xywh_N4[:, :2], box_xywh_N4[:, :2] + box_xywh_N4[:, 2:]], axis=1)
