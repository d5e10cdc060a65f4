"""What is fuzzed: labels, shards, manifests and images, from sound ones that get damaged."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raypose.data.image_check import check_image, image_size
from raypose.data.importers.label_pickle import LabelSettings, read_label
from raypose.data.manifest import MANIFEST_KEY, Counts, Manifest, is_labelled
from raypose.data.shard import ShardReader, ShardWriter, _to_record
from raypose.data.shard_set import ShardSet
from raypose.errors import DataError
from raypose.storage import open_store
from raypose.structures import People, Sample, Skeleton
from raypose.vision.decode import decode_rgb
from tests.fuzz.mutate import ODD_VALUES, mutate_bytes, mutate_opcodes, mutate_value

SKELETON = Skeleton(("nose", "left_hand", "right_hand"), ((0, 1), (0, 2)), ((1, 2),), (0.1, 0.2, 0.2))
SETTINGS = LabelSettings(("person", "dog"), SKELETON, is_normalised=False, skip_keys=frozenset({"track"}))
SIZE_WH = (40, 30)
PERSON = {
    "keypoints": np.array([[2.0, 3, 2], [9, 9, 1], [20, 20, 2]]),
    "box": [1.0, 1.0, 22.0, 21.0],
    "class": "person",
    "area": 400.0,
    "crowd": False,
}
LABELS: tuple[Any, ...] = (
    [PERSON, {**PERSON, "keypoints": PERSON["keypoints"].tolist(), "class": 1}],  # type: ignore[attr-defined]
    {"keypoints": np.ones((2, 3, 3)), "boxes": np.ones((2, 4)), "classes": np.array(["person", "dog"]), "track": 3},
    np.ones((2, 5 + 9), np.float32),
    [],
)


def fuzz_label(rng: random.Random) -> None:
    value = rng.choice(LABELS)
    if rng.random() < 0.7:
        value = mutate_value(rng, value)
    content = pickle.dumps(value, rng.randrange(6))
    if rng.random() < 0.6:
        content = rng.choice((mutate_bytes, mutate_opcodes))(rng, content)
    expect_data_error("labels/a.pkl", lambda: use(read_label(content, "labels/a.pkl", SETTINGS, SIZE_WH)))


def fuzz_shard(rng: random.Random) -> None:
    """Damage to the value of a record, to its pickle, to the file, or to the file with its checksums made right."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder, "shard-000000.pkl")
        record = pickle.dumps(damaged_record(rng), rng.randrange(3, 6)) if rng.random() < 0.6 else good_record()
        if rng.random() < 0.4:
            record = rng.choice((mutate_bytes, mutate_opcodes))(rng, record)
        with ShardWriter(path) as writer:
            writer.add(sample(rng))
            writer._entries.append((writer.size_bytes, len(record), zlib.crc32(record)))
            writer._write(record)
        info = writer.info()
        if rng.random() < 0.3:
            content = mutate_bytes(rng, path.read_bytes())
            path.write_bytes(with_right_checksums(content) if rng.random() < 0.7 else content)
        expect_data_error("shard-000000.pkl", lambda: read_shard(path))
        shard_set = ShardSet(open_store(folder), Manifest(SKELETON, SETTINGS.class_names, (info,), Counts()))
        list(shard_set.verify())  # tells faults, raises nothing


def fuzz_manifest(rng: random.Random) -> None:
    raw = json.loads(manifest().to_json())
    if rng.random() < 0.8:
        raw = mutate_value(rng, raw, tuple(value for value in ODD_VALUES if is_json(value)))
    content = json.dumps(raw).encode("utf-8", "surrogatepass")
    if rng.random() < 0.4:
        content = mutate_bytes(rng, content)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        Path(folder, MANIFEST_KEY).write_bytes(content)
        expect_data_error(MANIFEST_KEY, lambda: read_set(folder))


def fuzz_image(rng: random.Random) -> None:
    content = IMAGES[rng.choice(list(IMAGES))]
    content = mutate_bytes(rng, content[:64]) + content[64:] if rng.random() < 0.5 else mutate_bytes(rng, content)
    expect_data_error("a.jpg", lambda: decode_rgb(content, "a.jpg"))
    expect_data_error("a.jpg", lambda: check_image(content, "a.jpg", expected=image_size(content, "a.jpg")))


TARGETS: dict[str, Callable[[random.Random], None]] = {
    "label": fuzz_label,
    "shard": fuzz_shard,
    "manifest": fuzz_manifest,
    "image": fuzz_image,
}


def expect_data_error(where: str, read: Callable[[], object]) -> None:
    """Reading may work or raise DataError in lines that can be printed and name `where`; all else gets out."""
    try:
        read()
    except DataError as error:
        message = str(error)
        message.encode()
        assert where in message and all(line.isprintable() for line in message.splitlines()), message
        assert len(message) < 4_000, message


def use(people: People) -> None:
    """What everyone does with labels."""
    is_labelled(people)
    people.select(~people.ignore_N)


def sample(rng: random.Random) -> Sample:
    people = read_label(pickle.dumps(LABELS[0]), "sound", SETTINGS, SIZE_WH)
    return Sample("tour/a", IMAGES[rng.choice(list(IMAGES))], *SIZE_WH, people)


def good_record() -> bytes:
    return pickle.dumps(_to_record(sample(random.Random(0))), 5)


def damaged_record(rng: random.Random) -> Any:
    return mutate_value(rng, _to_record(sample(rng)))


def with_right_checksums(content: bytes) -> bytes:
    """The shard with the CRCs of its table and footer computed anew, so that damage gets past them."""
    body = bytearray(content[:-4])
    with suppress(struct.error, ValueError):
        (offset,) = struct.unpack_from("<Q", body, len(body) - 8)
        struct.pack_into("<I", body, len(body) - 20, zlib.crc32(body[offset : len(body) - 32]))
    return bytes(body) + struct.pack("<I", zlib.crc32(body))


def read_shard(path: Path) -> None:
    reader = ShardReader.open(path)
    for index in range(len(reader)):
        found = reader[index]
        use(found.people)
        found.id.encode()


def read_set(folder: str) -> None:
    shard_set = ShardSet.open(folder)
    names = [*shard_set.skeleton.names, *shard_set.class_names]
    print(len(shard_set), *names, file=io.TextIOWrapper(io.BytesIO(), "utf-8"))
    for shard in shard_set.manifest.shards:
        assert Path(folder, shard.name).resolve().parent == Path(folder).resolve()


def manifest() -> Manifest:
    info = {"size_bytes": 5000, "samples": 12, "sha256": "0" * 64}
    raw = {
        "version": 1,
        "samples": 24,
        "class_names": list(SETTINGS.class_names),
        "skeleton": SKELETON.to_dict(),
        "counts": {"people": 3, "labelled": 2, "ignored": 1, "crowds": 0, "images_without_people": 7},
        "shards": [{"name": f"shard-00000{number}.pkl", **info} for number in range(2)],
    }
    return Manifest.from_json(json.dumps(raw), "sound")


def is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def encoded(form: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (SIZE_WH[1], SIZE_WH[0], 3), np.uint8)
    pixels[:20] = 128
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(buffer, form, **options, **({"exif": exif} if form in ("JPEG", "PNG") else {}))
    return buffer.getvalue()


IMAGES = {
    "jpeg": encoded("JPEG"),
    "progressive jpeg": encoded("JPEG", progressive=True),
    "png": encoded("PNG"),
    "webp": encoded("WEBP"),
    "bmp": encoded("BMP"),
    "tiff": encoded("TIFF", compression="tiff_lzw"),
}
