"""What is told of each input: lines of JSON, or rows of a Parquet file, in the order of the plan."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

from raypose.batch.plan import OutputFormat
from raypose.inference import describe_people
from raypose.structures import IntArray, Poses, Skeleton

_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """The people of one image or frame, or the `error` that kept it from being one.

    `id_N` are their numbers where they are tracked, 0 for who has none.
    """

    name: str
    frame: int | None = None
    width: int = 0
    height: int = 0
    poses: Poses | None = None
    id_N: IntArray | None = None
    error: str = ""

    def to_record(self, skeleton: Skeleton, class_names: tuple[str, ...]) -> dict[str, Any]:
        """As it is written."""
        where = {"file": self.name} | ({} if self.frame is None else {"frame": self.frame})
        if self.poses is None:
            return where | {"error": self.error}
        people = describe_people(self.poses, skeleton, class_names)
        if self.id_N is not None:
            people = [{"id": number or None} | one for number, one in zip(self.id_N.tolist(), people, strict=True)]
        return where | {"width": self.width, "height": self.height, "people": people}


@dataclass(frozen=True, slots=True)
class Tally:
    """What a part came to. `failures` are the errors in it."""

    images: int
    people: int
    failures: tuple[str, ...]

    @classmethod
    def of(cls, found: Sequence[Found]) -> Self:
        """Of what `encode` is given."""
        poses = [one.poses for one in found if one.poses is not None]
        failures = tuple(one.error for one in found if one.poses is None)
        return cls(len(poses), sum(map(len, poses)), failures)


def encode(found: Sequence[Found], skeleton: Skeleton, class_names: tuple[str, ...], kind: OutputFormat) -> bytes:
    """A file of that kind."""
    records = (one.to_record(skeleton, class_names) for one in found)
    if kind == "jsonl":
        return b"".join(json.dumps(record).encode() + b"\n" for record in records)
    return _parquet(records)


def read_tally(content: bytes, kind: OutputFormat) -> Tally:
    """What is in a file that `encode` made."""
    if kind == "jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
    else:
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(
            io.BytesIO(content), columns=["people.list.element.score", "error"]
        ).to_pylist()
    failures = tuple(row["error"] for row in rows if row.get("error"))
    people = sum(len(row["people"]) for row in rows if row.get("people"))
    return Tally(len(rows) - len(failures), people, failures)


def _parquet(records: Iterator[dict[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    real, text = pyarrow.float32(), pyarrow.string()
    keypoint = pyarrow.struct({"name": text, "x": real, "y": real, "confidence": real})
    person = pyarrow.struct(
        {
            "id": pyarrow.int32(),
            "box": pyarrow.list_(real),
            "score": real,
            "class": text,
            "keypoints": pyarrow.list_(keypoint),
        }
    )
    whole = pyarrow.int32()
    schema = pyarrow.schema(
        {
            "file": text,
            "frame": whole,
            "width": whole,
            "height": whole,
            "people": pyarrow.list_(person),
            "error": text,
        }
    )
    buffer = io.BytesIO()
    with pyarrow.parquet.ParquetWriter(buffer, schema, compression="zstd") as writer:
        while rows := list(islice(records, _ROWS_AT_ONCE)):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
    return buffer.getvalue()
