"""COCO keypoint JSON: one file of images, annotations and categories, beside a folder of images."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from raypose.data.image_check import image_size
from raypose.data.importers.keypoint_names import flip_pairs_from_names, sigmas_from_names
from raypose.data.importers.source import LabelledSource, make_people, read_image, read_text, refuse_if_any
from raypose.errors import DataError
from raypose.structures import People, Sample, Skeleton

_Raw = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One image of the JSON with its annotations."""

    image: _Raw
    annotations: list[_Raw]


def read_coco(annotations: Path, images: Path) -> LabelledSource:
    """Every image that the JSON lists, those without annotations as negatives.

    Crowds and people without a labelled keypoint are kept as ignored regions, as COCO's evaluation has them.
    """
    raw = _load(annotations)
    if not images.is_dir():
        raise DataError(f"{images}: no such folder of images; give it with --images")
    where = str(annotations)
    categories = sorted(raw["categories"], key=lambda category: _integer(category, "id", where))
    skeleton, notes = _skeleton(categories, where)
    class_of = {category["id"]: index for index, category in enumerate(categories)}
    names = tuple(str(category.get("name", category["id"])) for category in categories)
    if len(class_of) != len(categories) or len(set(names)) != len(names):
        raise DataError(f"{where}: two categories share an id or a name; give each its own")
    entries, dropped = _entries(raw, set(class_of), where)
    if dropped:
        notes.append(f"{dropped} ignored annotations have an empty box and were left out")

    def load(entry: _Entry) -> Sample:
        return _sample(entry, images, skeleton, class_of, where)

    return LabelledSource(skeleton, names, len(entries), map(load, entries), tuple(notes))


def _load(path: Path) -> _Raw:
    try:
        raw = json.loads(read_text(path, "COCO keypoint JSON"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}; expected COCO keypoint annotations") from error
    for key in ("images", "annotations", "categories"):
        rows = raw.get(key) if isinstance(raw, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(
                f"{path}: no list {key!r}; expected COCO keypoint JSON with images, annotations, categories"
            )
    if not raw["categories"]:
        raise DataError(f"{path}: no categories; at least one with its keypoint names is needed")
    return dict(raw)


def _skeleton(categories: list[_Raw], where: str) -> tuple[Skeleton, list[str]]:
    first = categories[0]
    for category in categories:
        label = category.get("name", category.get("id"))
        if not isinstance(category.get("keypoints"), list) or not category["keypoints"]:
            raise DataError(
                f"{where}: category {label!r} has no keypoint names; give a keypoint JSON"
                " (COCO's person_keypoints_*.json) or remove the category"
            )
        if category["keypoints"] != first["keypoints"]:
            raise DataError(
                f"{where}: categories {first.get('name')!r} and {label!r} name different keypoints; one shard set has"
                " one skeleton, so import them apart"
            )
    names = tuple(str(name) for name in first["keypoints"])
    sigmas, origin = first.get("sigmas"), "stated by the JSON's category"
    if sigmas is None:
        sigmas, origin = sigmas_from_names(names), "COCO's constants, by keypoint name"
    flip_pairs = flip_pairs_from_names(names)
    try:
        skeleton = Skeleton.from_dict(
            {
                "names": names,
                "edges": [(start - 1, end - 1) for start, end in first.get("skeleton") or ()],
                "flip_pairs": flip_pairs,
                "sigmas": sigmas,
            }
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{where}: the category's skeleton must be keypoint pairs (counted from 1), its sigmas numbers"
        ) from error
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    pairs = ", ".join(f"{names[left]}/{names[right]}" for left, right in flip_pairs) or "none"
    return skeleton, [
        f"OKS sigmas: {origin}" if sigmas is not None else "OKS sigmas: none stated and not known by keypoint name",
        f"flip pairs, by keypoint name: {pairs}",
    ]


def _entries(raw: _Raw, category_ids: set[int], where: str) -> tuple[list[_Entry], int]:
    """Images with their annotations in the order of the file, and how many annotations were left out."""
    problems, by_image, dropped = [], defaultdict[int, list[_Raw]](list), 0
    image_ids = [_integer(image, "id", where) for image in raw["images"]]
    known = set(image_ids)
    if len(known) != len(image_ids):
        problems.append(f"{where}: two images share an id; give each its own")
    for annotation in raw["annotations"]:
        label = f"{where}: annotation {annotation.get('id')}"
        if not _is_one_of(annotation.get("image_id"), known):
            problems.append(f"{label}: image_id {annotation.get('image_id')!r} is no image of this file")
        elif not _is_one_of(annotation.get("category_id"), category_ids):
            problems.append(f"{label}: category_id {annotation.get('category_id')!r} is no category of this file")
        elif _is_empty_region(annotation):
            dropped += 1
        else:
            by_image[annotation["image_id"]].append(annotation)
    refuse_if_any(problems)
    return [_Entry(image, by_image[image["id"]]) for image in raw["images"]], dropped


def _is_empty_region(annotation: _Raw) -> bool:
    """A box without extent around nothing that is labelled: full COCO has a few, and they say nothing."""
    box, keypoints = annotation.get("bbox"), annotation.get("keypoints") or []
    match box:
        case [_, _, int() | float() as width, int() | float() as height] if isinstance(keypoints, list):
            unlabelled = annotation.get("iscrowd") or not any(keypoints[2::3])
            return bool(unlabelled) and not (width > 0 and height > 0)
    return False


def _is_one_of(value: object, ids: set[int]) -> bool:
    return type(value) is int and value in ids


def _sample(entry: _Entry, images: Path, skeleton: Skeleton, class_of: dict[int, int], where: str) -> Sample:
    name = entry.image.get("file_name")
    relative = PurePosixPath(str(name))
    if not isinstance(name, str) or not name or relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"{where}: image {entry.image['id']} has file_name {name!r}, expected a path below the folder")
    content = read_image(images / relative)
    width, height = entry.image.get("width"), entry.image.get("height")
    if width is None or height is None:
        width, height = image_size(content, name)
    if type(width) is not int or type(height) is not int:
        raise DataError(f"{where}: image {name}: width {width!r} and height {height!r} must be whole numbers")
    people = _people(entry.annotations, skeleton, class_of, where)
    return Sample(relative.with_suffix("").as_posix(), content, width, height, people)


def _people(annotations: list[_Raw], skeleton: Skeleton, class_of: dict[int, int], where: str) -> People:
    if not annotations:
        return People.empty(skeleton.keypoints)
    count = skeleton.keypoints
    box_xywh_N4 = np.array([_numbers(row, "bbox", 4, where) for row in annotations])
    return make_people(
        box_xyxy_N4=np.concatenate([box_xywh_N4[:, :2], box_xywh_N4[:, :2] + box_xywh_N4[:, 2:]], axis=1),
        keypoints_NK3=np.array([_keypoints(row, count, where) for row in annotations]).reshape(-1, count, 3),
        class_N=np.array([class_of[row["category_id"]] for row in annotations], np.int64),
        area_N=np.array([_area(row, where) for row in annotations]),
        crowd_N=np.array([bool(row.get("iscrowd")) for row in annotations]),
    )


def _keypoints(annotation: _Raw, count: int, where: str) -> list[float]:
    if not annotation.get("keypoints"):
        return [0.0] * (3 * count)
    return _numbers(annotation, "keypoints", 3 * count, where)


def _area(annotation: _Raw, where: str) -> float:
    area = annotation.get("area", float("nan"))
    if not _is_number(area):
        raise DataError(f"{where}: annotation {annotation.get('id')}: area {str(area)[:60]} is no number")
    return float(area)


def _numbers(annotation: _Raw, key: str, length: int, where: str) -> list[float]:
    values = annotation.get(key)
    if isinstance(values, list) and len(values) == length and all(map(_is_number, values)):
        return [float(value) for value in values]
    found = f"{len(values)} values" if isinstance(values, list) else repr(values)[:60]
    raise DataError(f"{where}: annotation {annotation.get('id')}: {key} has {found}, expected {length} numbers")


def _is_number(value: object) -> bool:
    """A float, or an integer that one can hold."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 1 << 53)


def _integer(row: _Raw, key: str, where: str) -> int:
    if type(row.get(key)) is not int:
        raise DataError(f"{where}: {key} {row.get(key)!r} of an image or category is no whole number")
    return int(row[key])
