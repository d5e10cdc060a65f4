"""Ultralytics' layout: `data.yaml`, folders of images, and one text file of normalised rows for each image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raypose.data.image_check import image_size
from raypose.data.importers.keypoint_names import flip_pairs_from_names, sigmas_from_names
from raypose.data.importers.source import (
    IMAGE_SUFFIXES,
    Floats,
    LabelledSource,
    class_table,
    corners,
    files_below,
    make_people,
    read_image,
    read_text,
    read_yaml,
    with_visibility,
)
from raypose.errors import DataError
from raypose.structures import COCO_PERSON, People, Sample, Skeleton

_TOLERANCE = 0.01
"""How far outside 0..1 a labelled coordinate may lie: rounding at the border, but never pixels."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns of a label row."""

    skeleton: Skeleton
    dimensions: int

    @property
    def columns(self) -> int:
        return 5 + self.skeleton.keypoints * self.dimensions


def read_yolo(data_yaml: Path, split: str) -> LabelledSource:
    """The images of one split (train, val, test). An image without a text file is one without people."""
    raw = _load(data_yaml)
    skeleton, dimensions, notes = _skeleton(raw, data_yaml)
    layout = _Layout(skeleton, dimensions)
    images = _images_of(raw, split, data_yaml)
    unlabelled = sum(not _label_path(path).is_file() for path, _ in images)
    if unlabelled:
        notes.append(f"{unlabelled} of {len(images)} images have no label file and count as images without people")

    def load(entry: tuple[Path, str]) -> Sample:
        path, name = entry
        content = read_image(path)
        width, height = image_size(content, str(path))
        return Sample(name, content, width, height, _read_people(_label_path(path), layout, width, height))

    names = class_table(raw.get("names"), f"{data_yaml}: names")
    return LabelledSource(skeleton, names, len(images), map(load, images), tuple(notes))


def _load(path: Path) -> dict[str, Any]:
    raw = read_yaml(path, "Ultralytics' data.yaml")
    if not isinstance(raw, dict) or "kpt_shape" not in raw:
        raise DataError(f"{path}: no kpt_shape; a pose data set states it, such as kpt_shape: [17, 3]")
    return raw


def _skeleton(raw: dict[str, Any], where: Path) -> tuple[Skeleton, int, list[str]]:
    match raw["kpt_shape"]:
        case [int(count), (2 | 3) as dimensions] if count > 0:
            pass
        case shape:
            raise DataError(f"{where}: kpt_shape {shape!r}, expected [keypoints, 2 or 3], such as [17, 3]")
    flip_index = raw.get("flip_idx")
    names, notes = _keypoint_names(raw, count, flip_index, where)
    if flip_index is None:
        flip_pairs = flip_pairs_from_names(names)
        notes.append(f"no flip_idx: {len(flip_pairs)} flip pairs by keypoint name")
    else:
        flip_pairs = _flip_pairs(flip_index, count, where)
    sigmas = sigmas_from_names(names)
    known = "COCO's constants, by keypoint name" if sigmas else "none, not known by keypoint name"
    edges = COCO_PERSON.edges if names == COCO_PERSON.names else ()
    return Skeleton(names, edges, flip_pairs, sigmas), dimensions, [*notes, f"OKS sigmas: {known}"]


def _keypoint_names(raw: dict[str, Any], count: int, flip_index: Any, where: Path) -> tuple[tuple[str, ...], list[str]]:
    stated = raw.get("kpt_names")
    if isinstance(stated, dict):  # one list for each class
        lists = list(stated.values())
        if any(names != lists[0] for names in lists[1:]):
            raise DataError(f"{where}: kpt_names differ between classes; one shard set has one skeleton")
        stated = lists[0] if lists else None
    if stated is None:
        if count == COCO_PERSON.keypoints and flip_index == list(COCO_PERSON.flip_index):
            return COCO_PERSON.names, ["no kpt_names: 17 keypoints with COCO's flip_idx are taken for COCO's"]
        return tuple(f"keypoint_{index}" for index in range(count)), ["no kpt_names: keypoints are numbered"]
    if not isinstance(stated, list) or len(stated) != count or len({str(name) for name in stated}) != count:
        raise DataError(f"{where}: kpt_names must be {count} different names, as kpt_shape says")
    return tuple(str(name) for name in stated), []


def _flip_pairs(flip_index: Any, count: int, where: Path) -> tuple[tuple[int, int], ...]:
    is_permutation = isinstance(flip_index, list) and sorted(flip_index, key=str) == sorted(range(count), key=str)
    if not is_permutation or any(flip_index[other] != index for index, other in enumerate(flip_index)):
        raise DataError(f"{where}: flip_idx must exchange pairs among 0..{count - 1}, found {str(flip_index)[:120]}")
    return tuple((index, other) for index, other in enumerate(flip_index) if index < other)


def _images_of(raw: dict[str, Any], split: str, where: Path) -> list[tuple[Path, str]]:
    """Image files of the split, each with the id it gets."""
    stated = raw.get(split)
    if not stated:
        present = [name for name in ("train", "val", "test") if raw.get(name)]
        raise DataError(f"{where}: no split {split!r}; it has {', '.join(present) or 'none'}")
    root = where.parent / str(raw.get("path") or "")
    found: list[tuple[Path, str]] = []
    for entry in stated if isinstance(stated, list) else [stated]:
        place = root / str(entry)
        if place.suffix == ".txt":
            found += [(path, _id_of(path, root)) for path in _listed(place, root)]
        else:
            found += [
                (path, path.relative_to(place).with_suffix("").as_posix())
                for path in files_below(place)
                if path.suffix.lower() in IMAGE_SUFFIXES
            ]
    if not found:
        raise DataError(f"{where}: split {split!r} has no images in {stated}; check path and {split}")
    return found


def _listed(listing: Path, root: Path) -> list[Path]:
    lines = (line.strip() for line in read_text(listing, "a list of images").splitlines())
    return [(listing.parent if line.startswith("./") else root) / line for line in lines if line]


def _id_of(path: Path, root: Path) -> str:
    inside = path.relative_to(root) if path.is_relative_to(root) else Path(*path.parts[1:])
    return inside.with_suffix("").as_posix()


def _label_path(image: Path) -> Path:
    """Ultralytics' rule: the last `images` folder of the path becomes `labels`."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _read_people(path: Path, layout: _Layout, width: int, height: int) -> People:
    if not path.is_file():
        return People.empty(layout.skeleton.keypoints)
    lines = enumerate(read_text(path, "rows of numbers").splitlines(), start=1)
    rows = [_row(line, layout, f"{path}:{number}") for number, line in lines if line.strip()]
    if not rows:
        return People.empty(layout.skeleton.keypoints)
    values = np.array(rows)
    keypoints = values[:, 5:].reshape(len(rows), layout.skeleton.keypoints, layout.dimensions)
    keypoints_NK3 = keypoints if layout.dimensions == 3 else with_visibility(keypoints)
    _check_range(values[:, 1:5], keypoints_NK3, path)
    scale_2 = np.array([width, height], np.float64)
    return make_people(
        box_xyxy_N4=corners(values[:, 1:5] * np.tile(scale_2, 2)),
        keypoints_NK3=np.concatenate([keypoints_NK3[..., :2] * scale_2, keypoints_NK3[..., 2:]], axis=-1),
        class_N=values[:, 0].astype(np.int64),
    )


def _row(line: str, layout: _Layout, where: str) -> list[float]:
    try:
        values = [float(text) for text in line.split()]
    except ValueError as error:
        raise DataError(f"{where}: {str(error)[:80]}; expected numbers separated by spaces") from error
    if len(values) != layout.columns:
        raise DataError(
            f"{where}: {len(values)} numbers, expected {layout.columns}: class, box (4) and"
            f" {layout.skeleton.keypoints} keypoints of {layout.dimensions}, as kpt_shape says"
        )
    if not values[0].is_integer():
        raise DataError(f"{where}: class {values[0]} is no whole number")
    return values


def _check_range(box_cxcywh_N4: Floats, keypoints_NK3: Floats, path: Path) -> None:
    labelled = keypoints_NK3[keypoints_NK3[..., 2] > 0][:, :2]
    numbers = np.concatenate([box_cxcywh_N4.ravel(), labelled.ravel()])
    outside = numbers[~((numbers >= -_TOLERANCE) & (numbers <= 1 + _TOLERANCE))]
    if len(outside):
        raise DataError(f"{path}: coordinate {outside[0]:g}, expected 0 to 1: YOLO labels are normalised by image size")
