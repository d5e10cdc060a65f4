"""Ultralytics' layout: `data.yaml`, folders of images, and one text file of normalised rows for each image."""

from __future__ import annotations

import posixpath
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
    SourceImage,
    class_table,
    corners,
    files_below,
    list_beside,
    make_people,
    open_root,
    read_image,
    read_text,
    read_yaml,
    slashed,
    with_visibility,
)
from raypose.errors import DataError
from raypose.storage import ObjectStore, StoredObject, is_remote
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


@dataclass(frozen=True, slots=True)
class _Label:
    """An image's id, and the key of its text file, None where it has none."""

    sample_id: str
    key: str | None


@dataclass(frozen=True, slots=True)
class _YoloReader:
    """Reads an image and its rows, both below the folder that all files of the split share."""

    store: ObjectStore
    layout: _Layout

    def __call__(self, image: SourceImage) -> Sample:
        label: _Label = image.label
        content = read_image(self.store, image.key)
        size_wh = image_size(content, self.store.place(image.key))
        if label.key is None:
            people = People.empty(self.layout.skeleton.keypoints)
        else:
            rows = read_text(self.store, label.key, "rows of numbers")
            people = _read_people(rows, self.store.place(label.key), self.layout, *size_wh)
        return Sample(label.sample_id, content, *size_wh, people)


def read_yolo(data_yaml: str | Path, split: str) -> LabelledSource:
    """The images of one split (train, val, test), local or in `s3://`. Without a text file, an image has no people."""
    store, key = open_root(data_yaml)
    where = store.place(key)
    raw = read_yaml(store, key, "Ultralytics' data.yaml")
    if not isinstance(raw, dict) or "kpt_shape" not in raw:
        raise DataError(f"{where}: no kpt_shape; a pose data set states it, such as kpt_shape: [17, 3]")
    skeleton, dimensions, notes = _skeleton(raw, where)
    names = class_table(raw.get("names"), f"{where}: names")
    if is_remote(root := str(raw.get("path") or "")):
        store, root = open_root(root)
    found, folders = _images_of(raw, split, store, _joined(posixpath.dirname(key), slashed(root)), where)
    shared, images, stray = _listed(store, found, folders)
    unlabelled = sum(image.label.key is None for image in images)
    if unlabelled:
        notes.append(f"{unlabelled} of {len(images)} images have no label file and count as images without people")
    if stray:
        first = store.place(stray[0])
        notes.append(f"{len(stray)} label files have no image and were left out, such as {first}")
    reader = _YoloReader(shared, _Layout(skeleton, dimensions))
    return LabelledSource(skeleton, names, images, reader, tuple(notes))


def _skeleton(raw: dict[str, Any], where: str) -> tuple[Skeleton, int, list[str]]:
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
    sigmas, origin = sigmas_from_names(names), "COCO's constants, by keypoint name"
    if raw.get("kpt_oks_sigmas") is not None:
        sigmas, origin = _sigmas(raw["kpt_oks_sigmas"], count, where), "stated by kpt_oks_sigmas"
    known = origin if sigmas else "none, not known by keypoint name"
    edges = COCO_PERSON.edges if names == COCO_PERSON.names else ()
    return Skeleton(names, edges, flip_pairs, sigmas), dimensions, [*notes, f"OKS sigmas: {known}"]


def _sigmas(stated: Any, count: int, where: str) -> tuple[float, ...]:
    if isinstance(stated, list) and len(stated) == count:
        values = [float(value) for value in stated if type(value) in (int, float) and 0 < value < 1e6]
        if len(values) == count:
            return tuple(values)
    raise DataError(f"{where}: kpt_oks_sigmas {str(stated)[:120]}, expected {count} positive numbers")


def _keypoint_names(raw: dict[str, Any], count: int, flip_index: Any, where: str) -> tuple[tuple[str, ...], list[str]]:
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


def _flip_pairs(flip_index: Any, count: int, where: str) -> tuple[tuple[int, int], ...]:
    is_permutation = isinstance(flip_index, list) and sorted(flip_index, key=str) == sorted(range(count), key=str)
    if not is_permutation or any(flip_index[other] != index for index, other in enumerate(flip_index)):
        raise DataError(f"{where}: flip_idx must exchange pairs among 0..{count - 1}, found {str(flip_index)[:120]}")
    return tuple((index, other) for index, other in enumerate(flip_index) if index < other)


def _images_of(
    raw: dict[str, Any], split: str, store: ObjectStore, root: str, where: str
) -> tuple[list[tuple[str, str]], list[str]]:
    """Keys of the split's images, each with the id it gets, and the folders that belong to it as a whole.

    `root` is the key of what `path` means.
    """
    stated = raw.get(split)
    if not stated:
        present = [name for name in ("train", "val", "test") if raw.get(name)]
        raise DataError(f"{where}: no split {split!r}; it has {', '.join(present) or 'none'}")
    found: list[tuple[str, str]] = []
    folders: list[str] = []
    for entry in stated if isinstance(stated, list) else [stated]:
        place = _place_of(slashed(str(entry)), store, root)
        if place.endswith(".txt"):
            found += [(key, _stem(key.removeprefix(f"{root}/"))) for key in _keys_of_list(store, place, root)]
        else:
            keys = [image.key for image in files_below(store, f"{place}/")]
            found += [(key, _stem(key.removeprefix(f"{place}/"))) for key in keys if _is_image(key)]
            folders.append(place)
    if not found:
        raise DataError(f"{where}: split {split!r} has no images in {stated}; check path and {split}")
    return found, folders


def _place_of(entry: str, store: ObjectStore, root: str) -> str:
    """The key of what an entry of a split names. As for Ultralytics, a `../` that leads nowhere is one too many.

    Roboflow writes it so.
    """
    place = _joined(root, entry)
    is_there = not entry.startswith("../") or store.exists(place) or any(store.list(f"{place}/"))
    return place if is_there else _joined(root, entry[3:])


def _keys_of_list(store: ObjectStore, listing: str, root: str) -> list[str]:
    lines = (slashed(line.strip()) for line in read_text(store, listing, "a list of images").splitlines())
    folder = posixpath.dirname(listing)
    return [_joined(folder if line.startswith("./") else root, line) for line in lines if line]


def _listed(
    store: ObjectStore, images: list[tuple[str, str]], folders: list[str]
) -> tuple[ObjectStore, list[SourceImage], list[str]]:
    """The folder that all images and labels share, as a store, and the images with what it knows of them.

    Last the keys of text files that belong to `folders` and to none of the images.
    """
    wanted = {key for image, _ in images for key in (image, label_key(image))}
    label_folders = tuple(posixpath.dirname(label_key(f"{folder}/image")) + "/" for folder in folders)
    found: dict[str, StoredObject] = {}
    stray: list[str] = []
    for entry in list_beside(store, [*wanted, *label_folders]):
        if entry.key in wanted:
            found[entry.key] = entry
        elif entry.key.endswith(".txt") and entry.key.startswith(label_folders):
            stray.append(entry.key)
    shared = "/".join(posixpath.commonprefix([key.split("/")[:-1] for key in wanted]))
    start = len(shared) + 1 if shared else 0
    listed = []
    for key, sample_id in images:
        image, label = found.get(key, StoredObject(key, 0)), found.get(label_key(key))
        version = f"{image.version} {label.version if label else ''}"
        listed.append(
            SourceImage(key[start:], image.size_bytes, _Label(sample_id, label.key[start:] if label else None), version)
        )
    return store.child(shared) if shared else store, listed, stray


def label_key(image: str) -> str:
    """Ultralytics' rule: the last `images` folder of the path becomes `labels`."""
    before, found, after = f"/{image}".rpartition("/images/")
    return f"{_stem(f'{before}/labels/{after}' if found else f'/{image}')}.txt"[1:]


def _joined(folder: str, relative: str) -> str:
    """A path as seen from the folder with this key, as a key. An absolute path begins at the root of the store."""
    return posixpath.normpath(posixpath.join("/", folder, relative)).lstrip("/")


def _stem(key: str) -> str:
    return posixpath.splitext(key)[0]


def _is_image(key: str) -> bool:
    return posixpath.splitext(key)[1].lower() in IMAGE_SUFFIXES


def _read_people(text: str, where: str, layout: _Layout, width: int, height: int) -> People:
    lines = enumerate(text.splitlines(), start=1)
    rows = [_row(line, layout, f"{where}:{number}") for number, line in lines if line.strip()]
    if not rows:
        return People.empty(layout.skeleton.keypoints)
    values = np.array(rows)
    keypoints = values[:, 5:].reshape(len(rows), layout.skeleton.keypoints, layout.dimensions)
    keypoints_NK3 = keypoints if layout.dimensions == 3 else with_visibility(keypoints)
    _check_range(values[:, 1:5], keypoints_NK3, where)
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


def _check_range(box_cxcywh_N4: Floats, keypoints_NK3: Floats, where: str) -> None:
    labelled = keypoints_NK3[keypoints_NK3[..., 2] > 0][:, :2]
    numbers = np.concatenate([box_cxcywh_N4.ravel(), labelled.ravel()])
    outside = numbers[~((numbers >= -_TOLERANCE) & (numbers <= 1 + _TOLERANCE))]
    if len(outside):
        raise DataError(
            f"{where}: coordinate {outside[0]:g}, expected 0 to 1: YOLO labels are normalised by image size"
        )
