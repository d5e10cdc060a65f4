"""What every importer hands to `build_shard_set`, and the steps they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from raypose.config.s3_url import S3Location
from raypose.errors import DataError, StorageError
from raypose.storage import ObjectStore, StoredObject, is_remote, open_store
from raypose.storage.base import check_key
from raypose.structures import People, Sample, Skeleton

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MAX_PROBLEMS = 20
"""Problems of one kind that are listed before the rest is only counted."""

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]
"""Hears the number of images and the bytes of image files that are done."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but no word is a truth value: a class may be called `no`, `off` or `true`."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a source that nobody has read yet: plain data that may travel to any process."""

    key: str
    """Its object in the store of images."""
    size_bytes: int
    """As listed; shards are cut by it. 0 where there is no such object, which reading it will report."""
    label: Any
    """What the source's `read` needs to know besides, such as the key of a label or rows of annotations."""
    version: str = ""
    """Differs once the image or its label file does, as far as the store can tell; empty where it cannot."""


@dataclass(frozen=True, slots=True)
class LabelledSource:
    """Labelled images of a foreign format, in the order that the shard set will have.

    `read` pickles, so that slices of `images` can be read by any process on any machine that reaches the store, and to
    equal bytes for equal settings (so it holds no set); it raises DataError for an image or label that is not well.
    `notes` says what was assumed or left out, one line each.
    """

    skeleton: Skeleton
    class_names: tuple[str, ...]
    images: Sequence[SourceImage]
    read: Callable[[SourceImage], Sample]
    notes: tuple[str, ...] = ()

    @property
    def samples(self) -> Iterator[Sample]:
        """Every sample, read one at a time."""
        return map(self.read, self.images)


def source_of(samples: Iterable[Sample], skeleton: Skeleton, class_names: tuple[str, ...]) -> LabelledSource:
    """Samples in memory as a source."""
    images = [SourceImage(sample.id, len(sample.image), sample) for sample in samples]
    return LabelledSource(skeleton, tuple(class_names), images, _itself)


def _itself(image: SourceImage) -> Sample:
    sample: Sample = image.label
    return sample


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


def open_root(url: str | Path) -> tuple[ObjectStore, str]:
    """The whole bucket or file system, and the key there of what `url` names: for data sets whose paths climb."""
    if is_remote(str(url)):
        location = S3Location.parse(str(url))
        return open_store(replace(location, prefix="").url), location.prefix
    return open_store("/"), str(Path(url).expanduser().absolute())[1:]


def key_below(name: object, where: str) -> str:
    """The key of a file that a data set names by a relative path; DataError if it is none or climbs out."""
    try:
        return PurePosixPath(check_key(slashed(name) if isinstance(name, str) else "")).as_posix()
    except StorageError as error:
        raise DataError(f"{where} {str(name)[:200]!r}, expected a relative path below the folder") from error


def slashed(path: str) -> str:
    """A path as tools on Windows write it, as others do. No key has a backslash."""
    return path.replace("\\", "/")


def read_image(store: ObjectStore, key: str) -> bytes:
    """An image's bytes; DataError where there are none."""
    content = read_bytes(store, key, "the image")
    if not content:
        raise DataError(f"{store.place(key)}: the image file is empty; replace or remove it")
    return content


def read_bytes(store: ObjectStore, key: str, what: str) -> bytes:
    """An object; DataError that says what it should have been where there is none, StorageError if the store fails."""
    try:
        return store.read(key)
    except StorageError as error:
        if store.exists(key):
            raise
        raise DataError(f"{store.place(key)}: cannot read {what}: No such file; check the path") from error


def read_text(store: ObjectStore, key: str, what: str) -> str:
    """A text file; DataError that says what it should have been."""
    try:
        return read_bytes(store, key, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{store.place(key)}: not UTF-8 text, expected {what}") from error


def read_yaml(store: ObjectStore, key: str, what: str) -> Any:
    """What a YAML file holds; DataError that says what it should have been."""
    text = read_text(store, key, what)
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-02-30
        reason = " ".join(str(error).split())
        raise DataError(f"{store.place(key)}: not valid YAML: {reason}; expected {what}") from error


def files_below(store: ObjectStore, prefix: str = "") -> list[StoredObject]:
    """Every object of a folder (`prefix` ends in a slash) in order, but no hidden ones; DataError where none is."""
    found = [entry for entry in store.list(prefix) if not _is_hidden(entry.key[len(prefix) :])]
    if not found:
        where = store.place(prefix) if prefix else store.url
        raise DataError(f"{where}: no such folder, or nothing in it; check the path")
    return found


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))


def find_listed(store: ObjectStore, keys: Iterable[str]) -> dict[str, StoredObject]:
    """Those of the objects that exist, by key: one listing for each folder that they lie in, not one look for each."""
    wanted = set(keys)
    return {entry.key: entry for entry in list_beside(store, wanted) if entry.key in wanted}


def list_beside(store: ObjectStore, keys: Iterable[str]) -> Iterator[StoredObject]:
    """Everything in the folders that the keys lie in, and below."""
    folders: list[str] = []
    for folder in sorted({key.rpartition("/")[0] + "/" if "/" in key else "" for key in keys}):
        if not folders or not folder.startswith(folders[-1]):  # a listing reaches into sub-folders
            folders.append(folder)
    return (entry for folder in folders for entry in store.list(folder))


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
