"""What a shard set holds. The manifest is written last: without one there is no data set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from raypose.data.sample_id import is_printable
from raypose.errors import DataError
from raypose.storage.base import ObjectStore
from raypose.structures import BoolArray, People, Skeleton

MANIFEST_KEY = "manifest.json"
VERSION = 1

_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_MAX_SHARD_BYTES = 1 << 40
_MAX_REASON = 400
"""Characters; what is wrong may quote a name as long as the file."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One shard file: its name in the folder and what its bytes must be."""

    name: str
    size_bytes: int
    samples: int
    sha256: str

    def __post_init__(self) -> None:
        if not _SHARD_NAME.fullmatch(self.name):
            raise DataError(f"shard name {self.name[:80]!a} is no plain file name")
        if not _SHA256.fullmatch(self.sha256):
            raise DataError(f"shard {self.name}: sha256 {self.sha256[:80]!a} is not 64 hexadecimal digits")
        if not 0 <= self.size_bytes <= _MAX_SHARD_BYTES or not 0 <= self.samples <= self.size_bytes:
            raise DataError(
                f"shard {self.name}: {self.samples} samples in {self.size_bytes} bytes, expected at most a sample"
                f" a byte and {_MAX_SHARD_BYTES:,} bytes"
            )


def is_labelled(people: People) -> BoolArray:
    """For each person, whether training learns from it: not ignored, and at least one keypoint labelled."""
    return np.logical_and(np.any(people.keypoints_NK3[..., 2] > 0, axis=1), ~people.ignore_N, dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Counts:
    """Totals over a shard set. `people` counts every entry, `labelled` those that training learns from."""

    people: int = 0
    labelled: int = 0
    ignored: int = 0
    crowds: int = 0
    images_without_people: int = 0

    @classmethod
    def of(cls, people: People) -> Counts:
        """The counts of one image."""
        return cls(
            people=len(people),
            labelled=int(is_labelled(people).sum()),
            ignored=int(people.ignore_N.sum()),
            crowds=int(people.crowd_N.sum()),
            images_without_people=int(len(people) == 0),
        )

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(Counts)))


@dataclass(frozen=True, slots=True)
class Manifest:
    """A shard set's table of contents."""

    skeleton: Skeleton
    class_names: tuple[str, ...]
    shards: tuple[ShardInfo, ...]
    counts: Counts
    version: int = VERSION

    def __post_init__(self) -> None:
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise DataError(f"class names {str(list(self.class_names))[:200]} must be there and differ")
        for name in (*self.class_names, *self.skeleton.names):
            if not is_printable(name):
                raise DataError(f"name {name[:80]!a} of a class or keypoint has control characters or line ends")
        names = [shard.name for shard in self.shards]
        if len(set(names)) != len(names):
            raise DataError("a shard is listed twice")

    @property
    def samples(self) -> int:
        """Images in all shards."""
        return sum(shard.samples for shard in self.shards)

    def to_json(self) -> str:
        """Readable JSON, equal for equal manifests."""
        raw = {
            "version": self.version,
            "samples": self.samples,
            "class_names": list(self.class_names),
            "skeleton": self.skeleton.to_dict(),
            "counts": asdict(self.counts),
            "shards": [asdict(shard) for shard in self.shards],
        }
        return json.dumps(raw, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Inverse of `to_json`; raises DataError that names `where` and the first thing that does not fit."""
        try:
            return cls._from_raw(json.loads(text))
        except DataError as error:
            raise DataError(f"{where}: {str(error)[:_MAX_REASON]}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{where}: not a manifest: {repr(error)[:_MAX_REASON]}; rebuild with 'raypose data build'"
            ) from error

    @classmethod
    def _from_raw(cls, raw: Any) -> Manifest:
        _check_type(raw, dict, "the manifest")
        version = _check_type(raw["version"], int, "version")
        if version != VERSION:
            step = "update raypose" if version > VERSION else "rebuild with 'raypose data build'"
            raise DataError(f"manifest version {version}, expected {VERSION}; {step}")
        _check_keys(raw, {"version", "samples", "class_names", "skeleton", "counts", "shards"}, "the manifest")
        manifest = cls(
            skeleton=Skeleton.from_dict(_check_type(raw["skeleton"], dict, "skeleton")),
            class_names=tuple(
                _check_type(name, str, "a class name") for name in _check_type(raw["class_names"], list, "class_names")
            ),
            shards=tuple(_shard_info(entry) for entry in _check_type(raw["shards"], list, "shards")),
            counts=_counts(raw["counts"]),
        )
        if _check_type(raw["samples"], int, "samples") != manifest.samples:
            raise DataError(f"{raw['samples']} samples stated, but the shards have {manifest.samples}")
        return manifest


def read_manifest(store: ObjectStore) -> Manifest:
    """The manifest of the shard set in `store`; DataError that says what to run when there is none."""
    if not store.exists(MANIFEST_KEY):
        raise DataError(
            f"{store.url}: no {MANIFEST_KEY}, so no shard set;"
            f" write one with 'raypose data build SRC {store.url}' or 'raypose data import'"
        )
    try:
        text = store.read(MANIFEST_KEY).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{store.place(MANIFEST_KEY)}: not UTF-8 text; rebuild with 'raypose data build'") from error
    return Manifest.from_json(text, store.place(MANIFEST_KEY))


def write_manifest(store: ObjectStore, manifest: Manifest) -> None:
    """Publish the shard set: call this when every shard is in place."""
    store.write(MANIFEST_KEY, manifest.to_json().encode("utf-8"))


def _shard_info(raw: Any) -> ShardInfo:
    _check_type(raw, dict, "a shard entry")
    _check_keys(raw, {item.name for item in fields(ShardInfo)}, "a shard entry")
    return ShardInfo(
        name=_check_type(raw["name"], str, "a shard name"),
        size_bytes=_check_type(raw["size_bytes"], int, "size_bytes"),
        samples=_check_type(raw["samples"], int, "samples"),
        sha256=_check_type(raw["sha256"], str, "sha256"),
    )


def _counts(raw: Any) -> Counts:
    _check_type(raw, dict, "counts")
    _check_keys(raw, {item.name for item in fields(Counts)}, "counts")
    for name, value in raw.items():
        if _check_type(value, int, f"counts.{name}") < 0:
            raise DataError(f"counts.{name} is {value}, expected 0 or more")
    return Counts(**raw)


def _check_keys(raw: Mapping[str, Any], expected: set[str], what: str) -> None:
    if set(raw) != expected:
        wrong = sorted(set(raw) ^ expected)[0]
        raise DataError(f"{what} {'lacks' if wrong in expected else 'has unknown key'} {wrong!r}")


def _check_type(value: Any, kind: type, what: str) -> Any:
    if type(value) is not kind:  # a bool is no int here
        raise DataError(f"{what} is {type(value).__name__}, expected {kind.__name__}")
    return value
