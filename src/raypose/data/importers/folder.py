"""raypose's own folder: `images/` and `labels/` mirror each other, `dataset.yaml` lies beside them.

Every image has a label pickle with the same relative stem. Its form is one of three: a list of people (dicts), a
dict of arrays, or one array of rows in YOLO's order (class, box centre and size, keypoints).
"""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from raypose.data.image_check import image_size
from raypose.data.importers.source import (
    IMAGE_SUFFIXES,
    Floats,
    LabelledSource,
    class_table,
    corners,
    files_below,
    make_people,
    read_image,
    read_yaml,
    refuse_if_any,
    with_visibility,
)
from raypose.data.safe_pickle import load_label
from raypose.errors import DataError, StorageError
from raypose.structures import COCO_PERSON, People, Sample, Skeleton

LABEL_SUFFIXES = frozenset({".pkl", ".pickle"})

_SETTINGS = ("classes", "skeleton", "coordinates", "skip_keys")
_PERSON_KEYS = frozenset({"keypoints", "box", "class", "area", "ignore", "crowd"})
_ARRAY_KEYS = {
    "keypoints": "keypoints",
    "boxes": "box",
    "classes": "class",
    "areas": "area",
    "ignore": "ignore",
    "crowd": "crowd",
}
_SUFFIX_OF_START = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"BM": ".bmp"}


@dataclass(frozen=True, slots=True)
class _Settings:
    """`dataset.yaml`."""

    class_names: tuple[str, ...]
    skeleton: Skeleton
    is_normalised: bool
    skip_keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the numbers of one label refer to."""

    where: str
    settings: _Settings
    width: int
    height: int

    @property
    def scale_2(self) -> Floats:
        """From the label's units to pixels, x and y."""
        return np.array([self.width, self.height] if self.settings.is_normalised else [1, 1], np.float64)


def read_folder(folder: Path) -> LabelledSource:
    """The images of the folder in order of their paths; `dataset.yaml` says how to read their labels."""
    settings = _read_settings(folder / "dataset.yaml")
    images = _by_stem(folder / "images", IMAGE_SUFFIXES, "an image")
    labels = _by_stem(folder / "labels", LABEL_SUFFIXES, "a label pickle (.pkl)")
    problems = [f"{images[stem]}: no label; expected labels/{stem}.pkl" for stem in images if stem not in labels]
    problems += [f"{labels[stem]}: no image; expected images/{stem}.jpg" for stem in labels if stem not in images]
    refuse_if_any(problems)
    if not images:
        raise DataError(f"{folder / 'images'}: no images; expected {', '.join(sorted(IMAGE_SUFFIXES))} files")

    def load(stem: str) -> Sample:
        content = read_image(images[stem])
        width, height = image_size(content, str(images[stem]))
        frame = _Frame(str(labels[stem]), settings, width, height)
        return Sample(stem, content, width, height, _read_people(labels[stem], frame))

    return LabelledSource(settings.skeleton, settings.class_names, len(images), map(load, images))


def write_folder(
    samples: Iterable[Sample],
    skeleton: Skeleton,
    class_names: tuple[str, ...],
    out: Path,
    *,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write samples in this very layout, labels as lists of people; returns their number. `out` must be empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StorageError(f"{out}: not an empty folder; choose another or remove it")
    written = 0
    for written, sample in enumerate(samples, start=1):
        _write_file(out / "images" / f"{_safe_stem(sample.id)}{_suffix_of(sample)}", sample.image)
        _write_file(out / "labels" / f"{sample.id}.pkl", pickle.dumps(_people_dicts(sample.people), protocol=5))
        if progress:
            progress(written)
    settings = {"classes": list(class_names), "coordinates": "pixels", "skeleton": skeleton.to_dict()}
    _write_file(out / "dataset.yaml", yaml.safe_dump(settings, sort_keys=False, default_flow_style=None).encode())
    return written


def _read_settings(path: Path) -> _Settings:
    raw = read_yaml(path, "classes and skeleton")
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
    return _Settings(
        class_names=class_table(raw.get("classes"), f"{path}: classes"),
        skeleton=_skeleton(raw.get("skeleton"), path),
        is_normalised=coordinates != "pixels",
        skip_keys=frozenset(str(key) for key in skip_keys),
    )


def _skeleton(raw: object, path: Path) -> Skeleton:
    if raw == "coco":
        return COCO_PERSON
    if not isinstance(raw, dict):
        raise DataError(f"{path}: skeleton {raw!r}, expected coco, or names with edges, flip_pairs and sigmas")
    try:
        return Skeleton.from_dict(raw)
    except (DataError, OverflowError) as error:
        raise DataError(f"{path}: {error}") from error


def _by_stem(folder: Path, suffixes: frozenset[str], what: str) -> dict[str, Path]:
    """Files by relative path without suffix, in order."""
    problems, found = [], defaultdict[str, list[Path]](list)
    for path in files_below(folder):
        if path.suffix.lower() in suffixes:
            found[path.relative_to(folder).with_suffix("").as_posix()].append(path)
        else:
            problems.append(f"{path}: expected {what}; move other files out of {folder.name}/")
    for stem, paths in found.items():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            problems.append(f"{folder / stem}: {names} have the same stem; keep one")
    refuse_if_any(problems)
    return {stem: found[stem][0] for stem in sorted(found)}


def _read_people(path: Path, frame: _Frame) -> People:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the label: {error.strerror or error}") from error
    label = load_label(content, frame.where)
    if isinstance(label, np.ndarray):
        return _from_rows(label, frame)
    if isinstance(label, dict):
        return _from_arrays(label, frame)
    if isinstance(label, list | tuple) and all(isinstance(person, dict) for person in label):
        return _from_dicts(list(label), frame)
    raise DataError(
        f"{frame.where}: a label of type {type(label).__name__}, expected a list of people (dicts), a dict of arrays,"
        " or an array of rows in YOLO's order"
    )


def _from_rows(rows: Any, frame: _Frame) -> People:
    count = frame.settings.skeleton.keypoints
    if rows.size == 0:
        return People.empty(count)
    values = _floats(rows, "rows", frame)
    if values.ndim != 2 or values.shape[1] not in (5 + 3 * count, 5 + 2 * count):
        raise DataError(
            f"{frame.where}: array of shape {values.shape}, expected (people, {5 + 3 * count}) or"
            f" (people, {5 + 2 * count}): class, box centre and size, then {count} keypoints"
        )
    return make_people(
        box_xyxy_N4=corners(values[:, 1:5] * np.tile(frame.scale_2, 2)),
        keypoints_NK3=_to_pixels(values[:, 5:].reshape(len(values), count, -1), frame),
        class_N=_classes(values[:, 0], frame),
    )


def _from_dicts(people: list[dict[Any, Any]], frame: _Frame) -> People:
    if not people:
        return People.empty(frame.settings.skeleton.keypoints)
    for index, person in enumerate(people):
        _check_keys(person, _PERSON_KEYS, f"person {index}", frame)
    keypoints = [
        _floats(person["keypoints"], f"keypoints of person {index}", frame) for index, person in enumerate(people)
    ]
    forms = {points.shape for points in keypoints}
    if len(forms) > 1:
        raise DataError(f"{frame.where}: keypoints of different shapes {sorted(forms)}; give every person the same")
    columns: dict[str, Any] = {"keypoints": np.stack(keypoints)}
    for key, default in (("class", 0), ("area", np.nan), ("ignore", False), ("crowd", False)):
        columns[key] = [default if person.get(key) is None else person[key] for person in people]
    boxless = [np.full(4, np.nan) if person.get("box") is None else person["box"] for person in people]
    columns["box"] = boxless
    return _from_columns(columns, frame)


def _from_arrays(label: dict[Any, Any], frame: _Frame) -> People:
    _check_keys(label, frozenset(_ARRAY_KEYS), "the label", frame)
    columns = {_ARRAY_KEYS[key]: value for key, value in label.items() if key in _ARRAY_KEYS and value is not None}
    columns["keypoints"] = _floats(columns["keypoints"], "keypoints", frame)
    if columns["keypoints"].shape[:1] == (0,):
        return People.empty(frame.settings.skeleton.keypoints)
    return _from_columns(columns, frame)


def _from_columns(columns: Mapping[str, Any], frame: _Frame) -> People:
    keypoints = _floats(columns["keypoints"], "keypoints", frame)
    expected = frame.settings.skeleton.keypoints
    if keypoints.ndim != 3 or keypoints.shape[1] != expected or keypoints.shape[2] not in (2, 3):
        raise DataError(
            f"{frame.where}: keypoints of shape {keypoints.shape[1:]} for each person, expected ({expected}, 3) or"
            f" ({expected}, 2): x, y and visibility of the skeleton's {expected} points"
        )
    count = len(keypoints)
    keypoints = _to_pixels(keypoints, frame)
    box = _column(columns, "box", np.full((count, 4), np.nan), frame) * np.tile(frame.scale_2, 2)
    return make_people(
        box_xyxy_N4=np.where(np.isnan(box).all(axis=1, keepdims=True), _tight_boxes(keypoints), box),
        keypoints_NK3=keypoints,
        class_N=_class_column(columns.get("class"), count, frame),
        area_N=_column(columns, "area", np.full(count, np.nan), frame),
        ignore_N=_column(columns, "ignore", np.zeros(count), frame) != 0,
        crowd_N=_column(columns, "crowd", np.zeros(count), frame) != 0,
    )


def _column(columns: Mapping[str, Any], key: str, default: Floats, frame: _Frame) -> Floats:
    if key not in columns:
        return default
    values = _floats(columns[key], key, frame)
    if values.shape != default.shape:
        raise DataError(f"{frame.where}: {key} of shape {values.shape}, expected {default.shape}")
    return values


def _class_column(raw: Any, count: int, frame: _Frame) -> Any:
    if raw is None:
        return np.zeros(count, np.int64)
    if not isinstance(raw, list | tuple | np.ndarray) or np.shape(raw)[:1] != (count,):
        raise DataError(f"{frame.where}: classes do not match the {count} people; give one for each")
    names = frame.settings.class_names
    unknown = [value for value in raw if isinstance(value, str) and value not in names]
    if unknown:
        raise DataError(f"{frame.where}: class {str(unknown[0])[:60]!r}, dataset.yaml has {', '.join(names)}")
    return _classes(
        _floats([names.index(value) if isinstance(value, str) else value for value in raw], "class", frame), frame
    )


def _classes(values: Floats, frame: _Frame) -> Any:
    if (
        values.ndim != 1
        or not np.isfinite(values).all()
        or (values != values.round()).any()
        or (abs(values) > 1e9).any()
    ):
        raise DataError(f"{frame.where}: a class that is no whole number; classes count from 0")
    return values.astype(np.int64)


def _to_pixels(keypoints_NKd: Floats, frame: _Frame) -> Floats:
    keypoints = keypoints_NKd if keypoints_NKd.shape[2] == 3 else with_visibility(keypoints_NKd)
    return np.concatenate([keypoints[..., :2] * frame.scale_2, keypoints[..., 2:]], axis=-1)


def _tight_boxes(keypoints_NK3: Floats) -> Floats:
    """The rectangle around each person's labelled keypoints; NaN, which the build refuses, where there are none."""
    labelled = keypoints_NK3[..., 2:] > 0
    low = np.where(labelled, keypoints_NK3[..., :2], np.inf).min(axis=1)
    high = np.where(labelled, keypoints_NK3[..., :2], -np.inf).max(axis=1)
    return np.concatenate([low, high], axis=1)


def _floats(raw: Any, what: str, frame: _Frame) -> Floats:
    try:
        array = np.asarray(raw)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{array.dtype} values")
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{frame.where}: {what} is no regular array of numbers: {str(error)[:100]}") from error


def _check_keys(label: dict[Any, Any], known: frozenset[str], what: str, frame: _Frame) -> None:
    unknown = sorted(str(key)[:60] for key in label if key not in known | frame.settings.skip_keys)
    if unknown:
        raise DataError(
            f"{frame.where}: {what} has unknown key {unknown[0]!r}; known are {', '.join(sorted(known))};"
            " list others that may be passed over as skip_keys in dataset.yaml"
        )
    if label.get("keypoints") is None:
        raise DataError(f"{frame.where}: {what} has no keypoints")


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


def _safe_stem(sample_id: str) -> str:
    path = PurePosixPath(sample_id)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in sample_id:
        raise DataError(f"sample id {sample_id!r} is no relative path, so no file can be named after it")
    return sample_id


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
