"""The forms that a label pickle of raypose's folder may have, read into People.

A list of people (dicts), a dict of arrays, or one array of rows in YOLO's order (class, box centre and size,
keypoints).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypose.data.importers.source import Floats, corners, make_people, with_visibility
from raypose.data.safe_pickle import load_label
from raypose.errors import DataError
from raypose.structures import People, Skeleton

_PERSON_KEYS = frozenset({"keypoints", "box", "class", "area", "ignore", "crowd"})
_ARRAY_KEYS = {
    "keypoints": "keypoints",
    "boxes": "box",
    "classes": "class",
    "areas": "area",
    "ignore": "ignore",
    "crowd": "crowd",
}


@dataclass(frozen=True, slots=True)
class LabelSettings:
    """What `dataset.yaml` says of labels."""

    class_names: tuple[str, ...]
    skeleton: Skeleton
    is_normalised: bool
    skip_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the numbers of one label refer to."""

    where: str
    settings: LabelSettings
    width: int
    height: int

    @property
    def scale_2(self) -> Floats:
        """From the label's units to pixels, x and y."""
        return np.array([self.width, self.height] if self.settings.is_normalised else [1, 1], np.float64)


def read_label(content: bytes, where: str, settings: LabelSettings, size_wh: tuple[int, int]) -> People:
    """The people of one label; `size_wh` is that of its image in pixels.

    Raises UnsafePickleError for what is not plain data, DataError that begins with `where` for what does not fit.
    """
    frame = _Frame(where, settings, *size_wh)
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
    values = raw.tolist() if isinstance(raw, np.ndarray) else raw
    if not isinstance(values, list | tuple) or len(values) != count:
        raise DataError(f"{frame.where}: classes do not match the {count} people; give one for each")
    names = frame.settings.class_names
    unknown = [value for value in values if isinstance(value, str) and value not in names]
    if unknown:
        raise DataError(f"{frame.where}: class {str(unknown[0])[:60]!r}, dataset.yaml has {', '.join(names)}")
    return _classes(
        _floats([names.index(value) if isinstance(value, str) else value for value in values], "class", frame), frame
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
        if _holds_text(raw):  # numpy gives each entry the size of the longest text
            raise TypeError("text")
        array = np.asarray(raw)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{array.dtype} values")
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{frame.where}: {what} is no regular array of numbers: {str(error)[:100]}") from error


def _holds_text(raw: Any) -> bool:
    return isinstance(raw, str | bytes | bytearray) or (isinstance(raw, list | tuple) and any(map(_holds_text, raw)))


def _check_keys(label: dict[Any, Any], known: frozenset[str], what: str, frame: _Frame) -> None:
    unknown = sorted(str(key)[:60] for key in label if key not in {*known, *frame.settings.skip_keys})
    if unknown:
        raise DataError(
            f"{frame.where}: {what} has unknown key {unknown[0]!r}; known are {', '.join(sorted(known))};"
            " list others that may be passed over as skip_keys in dataset.yaml"
        )
    if label.get("keypoints") is None:
        raise DataError(f"{frame.where}: {what} has no keypoints")
