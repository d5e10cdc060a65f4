"""MAT-files of version 5, read as plain data: enough for structs, cells, text and numbers, and nothing that runs.

scipy.io.loadmat crashes the interpreter on some damaged files (a flipped byte is enough), so a file from a stranger
is read here, with every length checked against what is left. The layout is MathWorks' "MAT-File Format", level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from raypose.errors import DataError

MAX_BYTES = 1 << 30
"""How large the file, and what is compressed in it, may be. MPII's has 14 MB."""

_HEADER_BYTES, _TAG_BYTES = 128, 8
_MAX_DEPTH = 32
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le", 18: "utf-32-le"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = range(6, 16)
_COMPLEX_FLAG = 0x0800


def read_mat(content: bytes, where: str) -> dict[str, Any]:
    """The variables of a MAT-file; DataError for everything else.

    Numbers are tuples of int or float in MATLAB's order of columns, text is str, a cell array is a list of values and
    a struct array a list of dicts, however many dimensions they have. Objects and functions are refused.
    """
    _check_header(content, where)
    variables: dict[str, Any] = {}
    try:
        for kind, start, end in _elements(content, _HEADER_BYTES, len(content)):
            if kind == _COMPRESSED:
                body = _inflated(content[start:end])
                variables |= _variables(body, _elements(body, 0, len(body)))
            else:
                variables |= _variables(content, [(kind, start, end)])
    except (_MalformedError, struct.error, zlib.error, ValueError) as error:
        raise DataError(f"{where}: damaged MAT-file: {error}; fetch it again") from error
    return variables


class _MalformedError(Exception):
    """What does not fit, in words."""


def _variables(body: bytes, elements: list[tuple[int, int, int]]) -> dict[str, Any]:
    for kind, _, _ in elements:
        if kind != _MATRIX:
            raise _MalformedError(f"an element of type {kind} between the variables")
    return dict(_Reader(body).matrix(start, end, 0) for _, start, end in elements)


def _check_header(content: bytes, where: str) -> None:
    if len(content) > MAX_BYTES:
        raise DataError(f"{where}: {len(content):,} bytes, expected at most {MAX_BYTES:,}")
    if content[124:128] == b"\x00\x02IM" or content.startswith(b"\x89HDF"):
        raise DataError(f"{where}: a MAT-file of version 7.3, expected version 5; save it with MATLAB's '-v7'")
    if not content.startswith(b"MATLAB 5.0") or content[124:128] != b"\x00\x01IM":
        start = content[:8].hex(" ") or "nothing"
        raise DataError(f"{where}: starts with {start}, expected a little-endian MAT-file of version 5")


def _inflated(content: bytes) -> bytes:
    inflater = zlib.decompressobj()
    body = inflater.decompress(content, MAX_BYTES)
    if not inflater.eof:
        raise _MalformedError(f"a variable that is cut off, or larger than {MAX_BYTES:,} bytes")
    return body


def _elements(body: bytes, start: int, end: int) -> list[tuple[int, int, int]]:
    """(type, start, end) of each data element between two offsets."""
    found = []
    while start < end:
        kind, first, last, start = _element(body, start, end)
        found.append((kind, first, last))
    return found


def _element(body: bytes, start: int, end: int) -> tuple[int, int, int, int]:
    """(type, start of its data, end of its data, start of the next element)."""
    if start + _TAG_BYTES > end:
        raise _MalformedError(f"it ends at byte {end:,}, inside an element")
    kind, size = struct.unpack_from("<II", body, start)
    if kind >> 16:  # a small element: size and type share four bytes, and four bytes of data follow
        kind, size, first = kind & 0xFFFF, kind >> 16, start + 4
        following = start + _TAG_BYTES
        if size > 4:
            raise _MalformedError(f"a small element of {size} bytes at byte {start:,}")
    else:
        first = start + _TAG_BYTES
        following = first + size + (0 if kind == _COMPRESSED else -size % 8)
    if first + size > end:
        raise _MalformedError(f"an element of {size:,} bytes at byte {start:,}, of which {end - first:,} are there")
    return kind, first, first + size, min(following, end)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads arrays out of one variable's bytes."""

    body: bytes

    def matrix(self, start: int, end: int, depth: int) -> tuple[str, Any]:
        """Name and value of the array between two offsets."""
        if start == end:
            return "", ()
        if depth > _MAX_DEPTH:
            raise _MalformedError(f"more than {_MAX_DEPTH} arrays inside each other")
        flags, start = self._integers(start, end)
        shape, start = self._integers(start, end)
        name, start = self._text(start, end)
        if not flags or flags[0] & _COMPLEX_FLAG or any(side < 0 for side in shape):
            raise _MalformedError(f"array {name!r} is complex, or of shape {shape}")
        kind, count = flags[0] & 0xFF, math.prod(shape)
        if kind == _STRUCT:
            return name, self._structs(start, end, count, depth)
        if kind == _CELL:
            return name, self._matrices(start, end, count, depth)
        if kind == _CHAR:
            return name, self._text(start, end)[0] if count else ""
        if kind in _NUMERIC:
            return name, self._numbers(start, end)[0] if count else ()
        raise _MalformedError(f"array {name!r} of class {kind}, expected numbers, text, cells and structs")

    def _structs(self, start: int, end: int, count: int, depth: int) -> list[dict[str, Any]]:
        width, start = self._integers(start, end)
        kind, first, last, start = _element(self.body, start, end)
        if len(width) != 1 or width[0] < 1 or kind not in _TEXTS:
            raise _MalformedError(f"field names of length {width}")
        size = width[0]
        raw = self.body[first:last]
        fields = [raw[at : at + size].split(b"\0")[0].decode("latin-1") for at in range(0, len(raw), size)]
        if not count:
            return []
        if not fields:
            raise _MalformedError("a struct without fields")
        values = self._matrices(start, end, count * len(fields), depth)
        return [
            dict(zip(fields, values[at : at + len(fields)], strict=True)) for at in range(0, len(values), len(fields))
        ]

    def _matrices(self, start: int, end: int, count: int, depth: int) -> list[Any]:
        if count * _TAG_BYTES > end - start:  # before anything is made of a size that only somebody states
            raise _MalformedError(f"{count:,} arrays in {end - start:,} bytes")
        values = []
        for _ in range(count):
            kind, first, last, start = _element(self.body, start, end)
            if kind != _MATRIX:
                raise _MalformedError(f"an element of type {kind} where an array should be")
            values.append(self.matrix(first, last, depth + 1)[1])
        return values

    def _integers(self, start: int, end: int) -> tuple[tuple[int, ...], int]:
        kind = _element(self.body, start, end)[0]
        if kind not in (5, 6):
            raise _MalformedError(f"an element of type {kind} where sizes should be")
        return self._numbers(start, end)

    def _numbers(self, start: int, end: int) -> tuple[tuple[Any, ...], int]:
        kind, first, last, following = _element(self.body, start, end)
        code = _NUMBERS.get(kind)
        if code is None:
            raise _MalformedError(f"an element of type {kind} where numbers should be")
        count, rest = divmod(last - first, struct.calcsize(f"<{code}"))
        if rest:
            raise _MalformedError(f"{last - first} bytes are no whole count of numbers")
        return struct.unpack_from(f"<{count}{code}", self.body, first), following

    def _text(self, start: int, end: int) -> tuple[str, int]:
        kind, first, last, following = _element(self.body, start, end)
        encoding = _TEXTS.get(kind)
        if encoding is None:
            raise _MalformedError(f"an element of type {kind} where text should be")
        return self.body[first:last].decode(encoding), following
