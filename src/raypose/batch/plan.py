"""Who is to be predicted, how, and in which parts: written down before the first image is read.

`plan.json` and the list of parts that it names are there once, whoever tries how often. A part that is published is
done; so whoever comes again does what is missing, and nothing twice.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from raypose.batch.sources import Source, open_source
from raypose.errors import ConfigError, DataError
from raypose.storage import ObjectStore, ancestry, is_remote, require_writable
from raypose.vision.draw import KeypointText

PLAN_FILE = "plan.json"
PARTS_FOLDER = "predictions"
PICTURES_FOLDER = "pictures"
IMAGES_A_PART = 128
"""What a worker that dies has to do again, seconds of work; a part more costs two requests."""
_VERSION = 1

VideoFormat = Literal["mp4", "webm"]
OutputFormat = Literal["jsonl", "parquet"]
PredictPrecision = Literal["float32", "bfloat16"]
"""Without an `auto`: on nodes of several kinds it would depend on which of them had an image."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that results depend on. `version` is the model's name, and differs where its content does."""

    model: str
    version: str
    conf: float = 0.25
    iou: float = 0.7
    imgsz: int | None = None
    track: bool = False
    pictures: bool = True
    text: KeypointText = "none"
    video_format: VideoFormat = "mp4"
    format: OutputFormat = "jsonl"
    precision: PredictPrecision = "float32"


@dataclass(frozen=True, slots=True)
class Part:
    """Some images by name, one video by name, or the samples of a shard set from `start` up to `stop`."""

    number: int
    images: tuple[str, ...] = ()
    video: str = ""
    start: int = 0
    stop: int = 0

    @property
    def inputs(self) -> int:
        """Images, videos and samples in it."""
        return len(self.images) + bool(self.video) + self.stop - self.start

    def to_dict(self) -> dict[str, Any]:
        """Without what it has nothing of."""
        return {name: value for name, value in asdict(self).items() if value or name == "number"}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Part:
        """Inverse of `to_dict`."""
        return cls(**(raw | {"images": tuple(raw.get("images", ()))}))


@dataclass(frozen=True, slots=True)
class Plan:
    """`source` is what the user named, `root` the place that names of parts are below."""

    source: str
    root: str
    settings: Settings
    inputs: int
    parts: tuple[Part, ...] = field(repr=False)

    def key_of(self, part: Part) -> str:
        """Where its predictions are published."""
        return f"{PARTS_FOLDER}/part-{part.number:06d}.{self.settings.format}"


def settle_plan(store: ObjectStore, source: str, settings: Settings) -> Plan:
    """The plan that `store` has already, or a new one. Raises ConfigError where the one it has is another.

    A plan that is there is not listed again: what is new below `source` since then belongs to another output.
    """
    source = source if is_remote(source) else str(Path(source).expanduser().absolute())
    if not store.exists(PLAN_FILE):
        found = open_source(source)
        require_writable(store, "out")
        _publish(store, source, settings, found)
    plan = _read(store)
    differences = _differences(plan, source, settings)
    if differences:
        raise ConfigError(
            f"{store.url}: holds predictions {', and '.join(differences)}; give the same as before to go on with them,"
            " or another --out"
        )
    return plan


def _publish(store: ObjectStore, source: str, settings: Settings, found: Source) -> None:
    if settings.pictures and any(above.url == store.child(PICTURES_FOLDER).url for above in ancestry(found.root)):
        raise DataError(
            f"{found.root}: pictures would be written to {store.place(PICTURES_FOLDER)} and overwrite it;"
            " choose another output folder"
        )
    lines = "".join(json.dumps(part.to_dict()) + "\n" for part in _parts_of(found)).encode()
    parts_key = f"plan/{hashlib.sha256(lines).hexdigest()[:16]}.jsonl.gz"
    store.write(parts_key, gzip.compress(lines, mtime=0))
    header = {
        "version": _VERSION,
        "source": source,
        "root": found.root,
        "inputs": len(found),
        "parts": parts_key,
        "settings": asdict(settings),
    }
    # Of several who begin at a time one is the first, and all follow its plan.
    store.write_new(PLAN_FILE, json.dumps(header, indent=1).encode())


def _parts_of(found: Source) -> Iterator[Part]:
    """Videos first: one takes long, and would keep everybody waiting at the end."""
    parts = [Part(0, video=video) for video in found.videos]
    for start in range(0, len(found.images), IMAGES_A_PART):
        parts.append(Part(0, images=found.images[start : start + IMAGES_A_PART]))
    for start in range(0, found.samples, IMAGES_A_PART):
        parts.append(Part(0, start=start, stop=min(start + IMAGES_A_PART, found.samples)))
    return (replace(part, number=number) for number, part in enumerate(parts))


def _read(store: ObjectStore) -> Plan:
    try:
        header = json.loads(store.read(PLAN_FILE))
        if header["version"] != _VERSION:
            raise ValueError(f"version {header['version']}, expected {_VERSION}")
        lines = gzip.decompress(store.read(header["parts"])).splitlines()
        parts = tuple(Part.from_dict(json.loads(line)) for line in lines)
        return Plan(header["source"], header["root"], Settings(**header["settings"]), header["inputs"], parts)
    except (ValueError, KeyError, TypeError, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{store.place(PLAN_FILE)}: no plan that this version reads: {error!r}; use another --out"
        ) from error


def _differences(plan: Plan, source: str, settings: Settings) -> list[str]:
    old, new = asdict(plan.settings), asdict(settings)
    found = [f"of {plan.source}, not of {source}"] if plan.source != source else []
    found += [f"with {name} {old[name]}, not {new[name]}" for name in old if old[name] != new[name]]
    return found
