"""The shard file: pickled records one after another, a table that finds them, and a fixed-size footer.

    record 0 … record n-1 | n entries (offset u64, size u32, CRC-32 u32) | footer

The footer is magic, version, n, table offset, the table's CRC-32 and its own; everything is little-endian. A
record is a dict of builtins (see `_to_record`), pickled with protocol 5, its arrays as raw bytes of a fixed dtype.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import pickle
import pickletools
import struct
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from raypose.data.flat_pickle import load_record
from raypose.data.manifest import ShardInfo
from raypose.data.sample_id import check_sample_id
from raypose.errors import DataError, ShardCorruptError
from raypose.structures import People, Sample
from raypose.vision.decode import MAX_PIXELS

SHARD_VERSION = 1

_MAGIC = b"RAYPOSE\n"
_FOOTER = struct.Struct("<8sIIQQI")  # magic, version, CRC of the table, records, table offset; then its own CRC
_ENTRY = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc", "<u4")])
_MAX_RECORD_BYTES = (1 << 30) - 1
_F4, _I8, _U1 = np.dtype("<f4"), np.dtype("<i8"), np.dtype("u1")
_NATIVE = {dtype: dtype.newbyteorder("=") for dtype in (_F4, _I8, _U1)}
_FIELDS: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
    "box": (_F4, (4,)),
    "keypoints": (_F4, (0, 3)),  # 0 stands for the record's K
    "class": (_I8, ()),
    "area": (_F4, ()),
    "ignore": (_U1, ()),
    "crowd": (_U1, ()),
}
_KEYS = frozenset({"id", "image", "width", "height", "k", *_FIELDS})


class ShardWriter:
    """Writes samples to one local file. The footer comes with a clean exit; an error leaves a file no reader takes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sha256 = hashlib.sha256()
        self._entries: list[tuple[int, int, int]] = []
        self.size_bytes = 0
        self._file = path.open("xb")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, sample: Sample) -> None:
        """Append one sample; DataError for an id that no file could have."""
        check_sample_id(sample.id, "a sample")
        # Memo entries that nothing refers to cost a third of the time that reading a record takes.
        record = pickletools.optimize(pickle.dumps(_to_record(sample), protocol=5))
        if len(record) > _MAX_RECORD_BYTES:
            raise DataError(f"{sample.id}: {len(record):,} bytes, a record has at most {_MAX_RECORD_BYTES:,}")
        self._entries.append((self.size_bytes, len(record), zlib.crc32(record)))
        self._write(record)

    def info(self) -> ShardInfo:
        """What the manifest says of this shard; complete once the writer is closed."""
        return ShardInfo(self._path.name, self.size_bytes, len(self._entries), self._sha256.hexdigest())

    def close(self) -> None:
        """Write table and footer, and wait until the file is on disk."""
        with self._file:
            self._finish()
            self._file.flush()
            os.fsync(self._file.fileno())

    def abandon(self) -> None:
        """Let go of the file without a footer."""
        self._file.close()

    def _finish(self) -> None:
        table_offset = self.size_bytes
        table = np.array(self._entries, _ENTRY).tobytes()
        footer = _FOOTER.pack(_MAGIC, SHARD_VERSION, zlib.crc32(table), len(self._entries), table_offset, 0)
        body = footer[:-4]
        self._write(table + body + struct.pack("<I", zlib.crc32(body)))

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._sha256.update(content)
        self.size_bytes += len(content)


class ShardReader:
    """Random access to one shard, memory-mapped. Raises ShardCorruptError for every byte that does not fit."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._name = name
        try:
            # The map keeps the open file, and with it any lock on it, even when `file` is closed.
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # mmap refuses an empty file
            raise self._corrupt("the file is empty") from error
        except OSError as error:
            raise DataError(f"{name}: cannot map the shard into memory: {error.strerror or error}") from error
        self._table = self._read_table()

    @classmethod
    def open(cls, path: Path) -> ShardReader:
        """The shard in a local file."""
        try:
            with path.open("rb") as file:
                return cls(file, path.name)
        except FileNotFoundError as error:
            raise ShardCorruptError(
                f"{path}: the manifest lists this shard, but it is missing; fetch it again or rebuild"
            ) from error
        except OSError as error:
            raise DataError(f"{path}: cannot read the shard: {error.strerror or error}") from error

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Sample:
        """The sample at `index`, 0 <= index < len."""
        if not 0 <= index < len(self._table):
            raise IndexError(f"{self._name}: record {index} of {len(self._table)}")
        offset, size, crc = self._table[index].item()
        record = self._bytes[offset : offset + size]
        if zlib.crc32(record) != crc:
            raise self._corrupt(f"record {index} does not have the CRC-32 of the table")
        where = f"{self._name}, record {index}"
        return _from_record(load_record(record, where), where)

    @property
    def size_bytes(self) -> int:
        """Size of the whole file."""
        return len(self._bytes)

    def sha256(self) -> str:
        """Digest of the whole file, for comparison with the manifest."""
        return hashlib.sha256(self._bytes).hexdigest()

    def _read_table(self) -> NDArray[Any]:
        end = len(self._bytes) - _FOOTER.size
        if end < 0:
            raise self._corrupt(f"{len(self._bytes)} bytes, shorter than the footer")
        footer = self._bytes[end:]
        magic, version, table_crc, count, table_offset, footer_crc = _FOOTER.unpack(footer)
        if magic != _MAGIC or footer_crc != zlib.crc32(footer[:-4]):
            raise self._corrupt("no valid footer at its end")
        if version != SHARD_VERSION:
            raise self._corrupt(f"format version {version}, expected {SHARD_VERSION}")
        if end - table_offset != count * _ENTRY.itemsize:
            raise self._corrupt(f"{count} records do not fit a table at byte {table_offset} of {len(self._bytes)}")
        content = self._bytes[table_offset:end]
        if zlib.crc32(content) != table_crc:
            raise self._corrupt("the record table does not have the CRC-32 of the footer")
        table = np.frombuffer(content, _ENTRY)
        ends = table["offset"] + table["size"]
        starts = np.concatenate([np.zeros(1, np.uint64), ends])
        if not np.array_equal(starts, np.append(table["offset"], np.uint64(table_offset))):
            raise self._corrupt("the record table does not cover the records without gaps")
        return table

    def _corrupt(self, what: str) -> ShardCorruptError:
        return ShardCorruptError(f"{self._name}: {what}; fetch it again or rebuild with 'raypose data build'")


def find_damage(path: Path, shard: ShardInfo) -> str | None:
    """How a local file differs from the shard that the manifest describes; None where it is the same."""
    size_bytes = path.stat().st_size
    if size_bytes != shard.size_bytes:
        return f"{size_bytes:,} bytes, manifest says {shard.size_bytes:,}"
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return None if sha256 == shard.sha256 else f"sha256 {sha256[:12]}…, manifest says {shard.sha256[:12]}…"


def _to_record(sample: Sample) -> dict[str, Any]:
    people = sample.people
    arrays = {
        "box": people.box_xyxy_N4,
        "keypoints": people.keypoints_NK3,
        "class": people.class_N,
        "area": people.area_N,
        "ignore": people.ignore_N,
        "crowd": people.crowd_N,
    }
    return {
        "id": sample.id,
        "image": sample.image,
        "width": int(sample.width),
        "height": int(sample.height),
        "k": people.keypoints_NK3.shape[1],
        **{name: np.ascontiguousarray(array, _FIELDS[name][0]).tobytes() for name, array in arrays.items()},
    }


def _from_record(record: Any, where: str) -> Sample:
    if type(record) is not dict or record.keys() != _KEYS:
        raise ShardCorruptError(f"{where}: not a record of a sample; rebuild with 'raypose data build'")
    if type(record["id"]) is not str or type(record["image"]) is not bytes or not record["image"]:
        raise ShardCorruptError(f"{where}: a sample without id or image bytes; rebuild with 'raypose data build'")
    check_sample_id(record["id"], where)
    for name in ("width", "height", "k"):
        if type(record[name]) is not int or not 1 <= record[name] <= MAX_PIXELS:
            raise ShardCorruptError(
                f"{where}: {name} is no integer from 1 to {MAX_PIXELS:,}; rebuild with 'raypose data build'"
            )
    count = _people_of(record, where)
    arrays = {name: _to_array(record, name, count, where) for name in _FIELDS}
    people = People(
        box_xyxy_N4=arrays["box"],
        keypoints_NK3=arrays["keypoints"],
        class_N=arrays["class"],
        area_N=arrays["area"],
        ignore_N=arrays["ignore"] != 0,
        crowd_N=arrays["crowd"] != 0,
    )
    return Sample(record["id"], record["image"], record["width"], record["height"], people)


def _people_of(record: dict[str, Any], where: str) -> int:
    if type(record["ignore"]) is not bytes:
        raise ShardCorruptError(f"{where}: ignore is not bytes; rebuild with 'raypose data build'")
    return len(record["ignore"])


def _to_array(record: dict[str, Any], name: str, count: int, where: str) -> NDArray[Any]:
    dtype, tail = _FIELDS[name]
    shape = (count, record["k"], 3) if name == "keypoints" else (count, *tail)
    content = record[name]
    if type(content) is not bytes or len(content) != dtype.itemsize * math.prod(shape):
        found = len(content) if isinstance(content, bytes) else type(content).__name__
        expected = dtype.itemsize * math.prod(shape)
        raise ShardCorruptError(f"{where}: {name} has {found} bytes, expected {expected} for {count} people")
    # A copy: what comes from bytes cannot be written to.
    return np.frombuffer(content, dtype).reshape(shape).astype(_NATIVE[dtype])
