"""COCO keypoint JSON: one file of images, annotations and categories, beside a folder of images."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raypose.data.image_check import image_size
from raypose.data.importers.keypoint_names import flip_pairs_from_names, sigmas_from_names
from raypose.data.importers.named_images import find_images, id_of
from raypose.data.importers.source import (
    LabelledSource,
    SourceImage,
    key_below,
    make_people,
    read_image,
    read_text,
    refuse_if_any,
)
from raypose.errors import DataError
from raypose.storage import ObjectStore, open_parent, open_store
from raypose.structures import People, Sample, Skeleton

_Raw = dict[str, Any]
ESTIMATED_AREA = "area_is_estimate"
"""Set in an annotation whose area nobody measured: exports state one all the same, for COCO's evaluation needs it."""
CORNERS = "corners"
"""x1, y1, x2, y2 in an annotation whose `bbox` does not give them back: -1 and 1 + 1e-30 make no 1e-30."""
_ROW_KEYS = ("id", "category_id", "bbox", CORNERS, "keypoints", "area", ESTIMATED_AREA, "iscrowd", "ignore")


@dataclass(frozen=True, slots=True)
class _Label:
    """What the JSON says of one image: its size, if stated, and its annotations without what nobody reads."""

    width: Any
    height: Any
    annotations: list[_Raw]


@dataclass(frozen=True, slots=True)
class _CocoReader:
    """Reads an image that the JSON `where` lists; its label travels with it."""

    images: ObjectStore
    skeleton: Skeleton
    class_of: dict[int, int]
    where: str

    def __call__(self, image: SourceImage) -> Sample:
        label: _Label = image.label
        content = read_image(self.images, image.key)
        width, height = label.width, label.height
        if width is None or height is None:
            width, height = image_size(content, self.images.place(image.key))
        if not (_is_whole(width) and _is_whole(height)):
            raise DataError(
                f"{self.where}: image {image.key}: width {width!r} and height {height!r} must be whole numbers"
            )
        people = _people(label.annotations, self.skeleton, self.class_of, self.where)
        return Sample(id_of(image.key), content, int(width), int(height), people)


def read_coco(annotations: str | Path, images: str | Path) -> LabelledSource:
    """Every image that the JSON lists, those without annotations as negatives; files lie locally or in `s3://`.

    Crowds and people without a labelled keypoint are kept as ignored regions, as COCO's evaluation has them.
    """
    raw, where = load_coco(annotations)
    return coco_source(raw, where, images)


def coco_source(raw: dict[str, Any], where: str, images: str | Path) -> LabelledSource:
    """The source that `read_coco` makes of a loaded JSON; `where` names it in errors."""
    store = open_store(str(images))
    categories, idle = _categories(raw, where)
    skeleton, notes = _skeleton(categories, where)
    notes += [f"category {name!r} has neither keypoints nor annotations and was left out" for name in idle]
    class_of = {category["id"]: index for index, category in enumerate(categories)}
    names = tuple(str(category.get("name", category["id"])) for category in categories)
    if len(class_of) != len(categories) or len(set(names)) != len(names):
        raise DataError(f"{where}: two categories share an id or a name; give each its own")
    by_image, dropped = _annotations(raw, set(class_of), where)
    if dropped:
        notes.append(f"{dropped} ignored annotations have an empty box and were left out")
    listed = _listed(raw["images"], by_image, store, where)
    return LabelledSource(skeleton, names, listed, _CocoReader(store, skeleton, class_of, where), tuple(notes))


def load_coco(annotations: str | Path) -> tuple[dict[str, Any], str]:
    """The JSON, whose three tables are there, and its place for errors."""
    store, key = open_parent(str(annotations))
    where = store.place(key)
    try:
        raw = json.loads(read_text(store, key, "COCO keypoint JSON"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}; expected COCO keypoint annotations") from error
    for table in ("images", "annotations", "categories"):
        rows = raw.get(table) if isinstance(raw, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(
                f"{where}: no list {table!r}; expected COCO keypoint JSON with images, annotations, categories"
            )
    if not raw["categories"]:
        raise DataError(f"{where}: no categories; at least one with its keypoint names is needed")
    return dict(raw), where


def _categories(raw: _Raw, where: str) -> tuple[list[_Raw], list[Any]]:
    """Categories by id without those that mean nothing here, as the group that Roboflow lists first; their names."""
    categories = sorted(raw["categories"], key=lambda category: _integer(category, "id", where))
    ids = (annotation.get("category_id") for annotation in raw["annotations"])
    used = {one for one in ids if isinstance(one, int | float)}  # what else stands there is refused with its place
    kept = [one for one in categories if one.get("keypoints") or one["id"] in used] or categories
    return kept, [one.get("name") for one in categories if one not in kept]


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
    if "sigmas" not in first:
        sigmas, origin = sigmas_from_names(names), "COCO's constants, by keypoint name"
    try:
        flip_pairs, pairs_origin = flip_pairs_from_names(names), "by keypoint name"
        if "flip_pairs" in first:
            flip_pairs, pairs_origin = _pairs(first["flip_pairs"]), "stated by the JSON's category"
        skeleton = Skeleton.from_dict(
            {
                "names": names,
                "edges": _pairs(first.get("skeleton") or ()),
                "flip_pairs": flip_pairs,
                "sigmas": sigmas,
            }
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{where}: a category's skeleton and flip_pairs must be keypoint pairs (counted from 1), its sigmas numbers"
        ) from error
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    pairs = ", ".join(f"{names[left]}/{names[right]}" for left, right in flip_pairs) or "none"
    return skeleton, [
        f"OKS sigmas: {origin}" if sigmas is not None else "OKS sigmas: none stated and not known by keypoint name",
        f"flip pairs, {pairs_origin}: {pairs}",
    ]


def _pairs(counted_from_1: Any) -> tuple[tuple[int, int], ...]:
    return tuple((first - 1, second - 1) for first, second in counted_from_1)


def _annotations(raw: _Raw, category_ids: set[int], where: str) -> tuple[dict[int, list[_Raw]], int]:
    """Annotations by image in the order of the file, and how many were left out."""
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
            # Segments are most of a file, and would be sent along to every process.
            row = {key: annotation[key] for key in _ROW_KEYS if key in annotation}
            by_image[annotation["image_id"]].append(row)
    refuse_if_any(problems)
    return by_image, dropped


def _listed(images: list[_Raw], by_image: dict[int, list[_Raw]], store: ObjectStore, where: str) -> list[SourceImage]:
    labels = []
    for image in images:
        key = key_below(image.get("file_name"), f"{where}: image {image['id']} has file_name")
        label = _Label(image.get("width"), image.get("height"), by_image.get(image["id"], []))
        labels.append(((key,), label))
    return find_images(store, labels, where)


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


def _people(annotations: list[_Raw], skeleton: Skeleton, class_of: dict[int, int], where: str) -> People:
    if not annotations:
        return People.empty(skeleton.keypoints)
    count = skeleton.keypoints
    return make_people(
        box_xyxy_N4=np.array([_corners(row, where) for row in annotations]),
        keypoints_NK3=np.array([_keypoints(row, count, where) for row in annotations]).reshape(-1, count, 3),
        class_N=np.array([class_of[row["category_id"]] for row in annotations], np.int64),
        area_N=np.array([_area(row, where) for row in annotations]),
        ignore_N=np.array([bool(row.get("ignore")) for row in annotations]),
        crowd_N=np.array([bool(row.get("iscrowd")) for row in annotations]),
    )


def _corners(annotation: _Raw, where: str) -> list[float]:
    if CORNERS in annotation:
        return _numbers(annotation, CORNERS, 4, where)
    x, y, width, height = _numbers(annotation, "bbox", 4, where)
    return [x, y, x + width, y + height]


def _keypoints(annotation: _Raw, count: int, where: str) -> list[float]:
    if not annotation.get("keypoints"):
        return [0.0] * (3 * count)
    return _numbers(annotation, "keypoints", 3 * count, where)


def _area(annotation: _Raw, where: str) -> float:
    area = float("nan") if annotation.get(ESTIMATED_AREA) else annotation.get("area", float("nan"))
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


def _is_whole(value: object) -> bool:
    """As an integer, or as `640.0`, which is how some programs write it."""
    return type(value) is int or (isinstance(value, float) and value.is_integer())


def _integer(row: _Raw, key: str, where: str) -> int:
    if type(row.get(key)) is not int:
        raise DataError(f"{where}: {key} {row.get(key)!r} of an image or category is no whole number")
    return int(row[key])
