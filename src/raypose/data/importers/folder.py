"""raypose's own folder: `images/` and `labels/` mirror each other, `dataset.yaml` lies beside them.

Every image has a label pickle with the same relative stem; `label_pickle` says what it may hold.
"""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from raypose.data.image_check import image_size
from raypose.data.importers.label_pickle import LabelSettings, read_label
from raypose.data.importers.source import (
    IMAGE_SUFFIXES,
    LabelledSource,
    SourceImage,
    class_table,
    files_below,
    read_bytes,
    read_image,
    read_yaml,
    refuse_if_any,
)
from raypose.data.sample_id import check_sample_id
from raypose.errors import DataError, StorageError
from raypose.storage import ObjectStore, StoredObject, open_store
from raypose.structures import COCO_PERSON, People, Sample, Skeleton

LABEL_SUFFIXES = frozenset({".pkl", ".pickle"})

_IMAGES, _LABELS, _SETTINGS_FILE = "images/", "labels/", "dataset.yaml"
_SETTINGS = ("classes", "skeleton", "coordinates", "skip_keys")
_SUFFIX_OF_START = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"BM": ".bmp"}


@dataclass(frozen=True, slots=True)
class _FolderReader:
    """Reads an image and the label whose key it carries."""

    store: ObjectStore
    settings: LabelSettings

    def __call__(self, image: SourceImage) -> Sample:
        content = read_image(self.store, image.key)
        size_wh = image_size(content, self.store.place(image.key))
        label = read_bytes(self.store, image.label, "the label")
        people = read_label(label, self.store.place(image.label), self.settings, size_wh)
        return Sample(_stem(image.key, _IMAGES), content, *size_wh, people)


def read_folder(folder: str | Path) -> LabelledSource:
    """The images of a local folder or `s3://` prefix, by path; `dataset.yaml` says how to read their labels."""
    store = open_store(str(folder))
    settings = _read_settings(store)
    images = _by_stem(store, _IMAGES, IMAGE_SUFFIXES, "an image")
    labels = _by_stem(store, _LABELS, LABEL_SUFFIXES, "a label pickle (.pkl)")
    problems = [
        f"{store.place(images[stem].key)}: no label; expected {_LABELS}{stem}.pkl" for stem in images.keys() - labels
    ]
    problems += [
        f"{store.place(labels[stem].key)}: no image; expected {_IMAGES}{stem}.jpg" for stem in labels.keys() - images
    ]
    refuse_if_any(sorted(problems))
    listed = [
        SourceImage(image.key, image.size_bytes, labels[stem].key, f"{image.version} {labels[stem].version}")
        for stem, image in images.items()
    ]
    return LabelledSource(settings.skeleton, settings.class_names, listed, _FolderReader(store, settings))


def write_folder(
    samples: Iterable[Sample],
    skeleton: Skeleton,
    class_names: tuple[str, ...],
    out: Path,
    *,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write samples in this very layout, labels as lists of people; returns their number. `out` must be empty."""
    check_is_empty(out)
    written = 0
    for written, sample in enumerate(samples, start=1):
        write_labelled_image(sample, out)
        if progress:
            progress(written)
    write_settings(skeleton, class_names, out)
    return written


def check_is_empty(out: Path) -> None:
    """Raise StorageError unless a new data set may be written there."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StorageError(f"{out}: not an empty folder; choose another or remove it")


def write_labelled_image(sample: Sample, out: Path) -> None:
    """One image and its label."""
    check_sample_id(sample.id, "a sample")
    _write_file(out / _IMAGES / f"{sample.id}{_suffix_of(sample)}", sample.image)
    _write_file(out / _LABELS / f"{sample.id}.pkl", pickle.dumps(_people_dicts(sample.people), protocol=5))


def write_settings(skeleton: Skeleton, class_names: tuple[str, ...], out: Path) -> None:
    """`dataset.yaml`, without which the folder is no data set."""
    settings = {"classes": list(class_names), "coordinates": "pixels", "skeleton": skeleton.to_dict()}
    _write_file(out / _SETTINGS_FILE, yaml.safe_dump(settings, sort_keys=False, default_flow_style=None).encode())


def _read_settings(store: ObjectStore) -> LabelSettings:
    raw = read_yaml(store, _SETTINGS_FILE, "classes and skeleton")
    path = store.place(_SETTINGS_FILE)
    if not isinstance(raw, dict):
        raise DataError(f"{path}: expected keys {', '.join(_SETTINGS)}")
    unknown = sorted(str(key) for key in raw if key not in _SETTINGS)
    if unknown:
        raise DataError(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(_SETTINGS)}")
    skip_keys = raw.get("skip_keys") or []
    if not isinstance(skip_keys, list):
        raise DataError(f"{path}: skip_keys {skip_keys!r}, expected a list of keys")
    coordinates = raw.get("coordinates", "pixels")
    if coordinates not in ("pixels", "normalised", "normalized"):
        raise DataError(f"{path}: coordinates {coordinates!r}, expected pixels or normalised")
    return LabelSettings(
        class_names=class_table(raw.get("classes"), f"{path}: classes"),
        skeleton=_skeleton(raw.get("skeleton"), path),
        is_normalised=coordinates != "pixels",
        skip_keys=tuple(str(key) for key in skip_keys),
    )


def _skeleton(raw: object, path: str) -> Skeleton:
    if raw == "coco":
        return COCO_PERSON
    if not isinstance(raw, dict):
        raise DataError(f"{path}: skeleton {raw!r}, expected coco, or names with edges, flip_pairs and sigmas")
    try:
        return Skeleton.from_dict(raw)
    except (DataError, OverflowError) as error:
        raise DataError(f"{path}: {error}") from error


def _by_stem(store: ObjectStore, folder: str, suffixes: frozenset[str], what: str) -> dict[str, StoredObject]:
    """Objects of the folder by relative path without suffix, in order."""
    problems, found = [], defaultdict[str, list[StoredObject]](list)
    for entry in files_below(store, folder):
        if PurePosixPath(entry.key).suffix.lower() in suffixes:
            found[_stem(entry.key, folder)].append(entry)
        else:
            problems.append(f"{store.place(entry.key)}: expected {what}; move other files out of {folder}")
    for stem, entries in found.items():
        if len(entries) > 1:
            names = " and ".join(PurePosixPath(entry.key).name for entry in entries)
            problems.append(f"{store.place(folder + stem)}: {names} have the same stem; keep one")
    refuse_if_any(problems)
    return {stem: found[stem][0] for stem in sorted(found)}


def _stem(key: str, folder: str) -> str:
    return PurePosixPath(key.removeprefix(folder)).with_suffix("").as_posix()


def _people_dicts(people: People) -> list[dict[str, Any]]:
    dicts = []
    for index in range(len(people)):
        person: dict[str, Any] = {
            "box": people.box_xyxy_N4[index],
            "keypoints": people.keypoints_NK3[index],
            "class": int(people.class_N[index]),
        }
        if np.isfinite(people.area_N[index]):
            person["area"] = float(people.area_N[index])
        if people.ignore_N[index]:
            person["ignore"] = True
        if people.crowd_N[index]:
            person["crowd"] = True
        dicts.append(person)
    return dicts


def _suffix_of(sample: Sample) -> str:
    for start, suffix in _SUFFIX_OF_START.items():
        if sample.image.startswith(start):
            return suffix
    raise DataError(f"{sample.id}: image starts with {sample.image[:4].hex(' ')}, expected JPEG, PNG, WebP or BMP")


def _write_file(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(f"{path}: cannot write: {error.strerror or error}") from error
