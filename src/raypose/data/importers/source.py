"""What every importer hands to `build_shard_set`, and the steps they share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from raypose.errors import DataError
from raypose.structures import People, Sample, Skeleton

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MAX_PROBLEMS = 20
"""Problems of one kind that are listed before the rest is only counted."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelledSource:
    """Labelled images of a foreign format.

    `samples` reads one image at each step; a step that raises DataError does not end it, so that a caller can
    collect several problems. `notes` says what was assumed or left out, one line each.
    """

    skeleton: Skeleton
    class_names: tuple[str, ...]
    count: int
    samples: Iterator[Sample]
    notes: tuple[str, ...] = ()


def make_people(
    box_xyxy_N4: Floats,
    keypoints_NK3: Floats,
    class_N: NDArray[np.int64],
    *,
    area_N: Floats | None = None,
    ignore_N: NDArray[np.bool_] | None = None,
    crowd_N: NDArray[np.bool_] | None = None,
) -> People:
    """People in raypose's form: crowds and people without a labelled keypoint are ignored, unlabelled points are 0."""
    count = len(class_N)
    nobody_N = np.zeros(count, np.bool_)
    crowd_N = nobody_N if crowd_N is None else crowd_N
    labelled_NK = keypoints_NK3[..., 2] > 0
    empty_N = ~labelled_NK.any(axis=1)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which the build refuses
        return People(
            box_xyxy_N4=box_xyxy_N4.astype(np.float32),
            keypoints_NK3=np.where((keypoints_NK3[..., 2] != 0)[..., None], keypoints_NK3, 0).astype(np.float32),
            class_N=class_N.astype(np.int64),
            area_N=np.full(count, np.nan, np.float32) if area_N is None else area_N.astype(np.float32),
            ignore_N=crowd_N | empty_N | (nobody_N if ignore_N is None else ignore_N),
            crowd_N=crowd_N,
        )


def with_visibility(xy_NK2: Floats) -> Floats:
    """Points without visibility as NK3: visible, but not labelled where they are NaN, negative or exactly (0, 0)."""
    missing_NK = ~(xy_NK2 >= 0).all(axis=-1) | (xy_NK2 == 0).all(axis=-1)
    keypoints_NK3 = np.concatenate([xy_NK2, np.full((*xy_NK2.shape[:2], 1), 2.0)], axis=-1)
    keypoints_NK3[missing_NK] = 0
    return keypoints_NK3


def corners(box_cxcywh_N4: Floats) -> Floats:
    """Boxes as corners (x1, y1, x2, y2), from centre and size."""
    centre, half = box_cxcywh_N4[:, :2], box_cxcywh_N4[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def read_image(path: Path) -> bytes:
    """An image file's bytes; DataError where there are none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the image: {error.strerror or error}; check the path") from error
    if not content:
        raise DataError(f"{path}: the image file is empty; replace or remove it")
    return content


def read_text(path: Path, what: str) -> str:
    """A text file; DataError that says what it should have been."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text, expected {what}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot read {what}: {error.strerror or error}") from error


def read_yaml(path: Path, what: str) -> Any:
    """What a YAML file holds; DataError that says what it should have been."""
    text = read_text(path, what)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-02-30
        raise DataError(f"{path}: not valid YAML: {' '.join(str(error).split())}; expected {what}") from error


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder in a fixed order, without hidden ones; DataError where there is no folder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; check the path")
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def refuse_if_any(problems: list[str]) -> None:
    """Raise DataError with the problems, one line each, the tail of a long list only counted."""
    if problems:
        more = len(problems) - MAX_PROBLEMS
        tail = [f"and {more:,} more of this kind"] if more > 0 else []
        raise DataError("\n".join(problems[:MAX_PROBLEMS] + tail))


def class_table(raw: Any, where: str) -> tuple[str, ...]:
    """Class names from a list, or from a mapping of 0, 1, 2 … to names."""
    if isinstance(raw, dict) and sorted(raw, key=str) == sorted(range(len(raw)), key=str):
        raw = [raw[index] for index in range(len(raw))]
    if not isinstance(raw, list) or not raw or len({str(name) for name in raw}) != len(raw):
        raise DataError(f"{where}: expected a list of different class names, such as [person]")
    return tuple(str(name) for name in raw)
