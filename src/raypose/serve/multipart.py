"""The parts of a `multipart/form-data` body (RFC 7578) that is in memory already, without copying it twice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from raypose.serve.problem import Problem

_BOUNDARY = re.compile(r'boundary="?([^";,\s]{1,70})"?', re.IGNORECASE)
_NAME = re.compile(rb'[;\s]name="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_FILENAME = re.compile(rb'[;\s]filename="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_HEADERS_BYTES = 8192
"""Most bytes of one part's headers."""


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form; `filename` is what the sender calls its file, and no path to trust."""

    name: str
    filename: str | None
    content: bytes


def parse_multipart(body: bytes, content_type: str, *, most: int) -> Iterator[Part]:
    """Each part in order; Problem where the body is no such form or has more than `most` parts."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise Problem("bad_body", "Content-Type: multipart/form-data without a boundary")
    delimiter = b"--" + found[1].encode("latin-1", "replace")
    position = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter) + 2
    if position == 1:
        raise Problem("bad_body", "multipart body: its boundary appears nowhere")
    for number in range(most + 1):
        position += len(delimiter)
        if body.startswith(b"--", position):
            return
        if number == most:
            raise Problem("too_many_images", f"more than {most} parts; send fewer, or several requests")
        if not body.startswith(b"\r\n", position):
            raise Problem("bad_body", f"multipart body: no line end after the boundary of part {number}")
        end = body.find(b"\r\n" + delimiter, position)
        if end < 0:
            raise Problem("bad_body", f"multipart body: part {number} has no end; was it cut off?")
        yield _part(body, position, end, number)
        position = end + 2


def _part(body: bytes, start: int, end: int, number: int) -> Part:
    """The part between a boundary's last byte and the line end before the next boundary."""
    blank = body.find(b"\r\n\r\n", start, min(end, start + _HEADERS_BYTES) + 4)
    if blank < 0 or blank > end:
        raise Problem("bad_body", f"multipart body: part {number} has no blank line after its headers")
    headers = body[start:blank]
    name, filename = _NAME.search(headers), _FILENAME.search(headers)
    if name is None:
        raise Problem("bad_body", f"multipart body: part {number} has no name in its Content-Disposition")
    return Part(_text(name[1]), None if filename is None else _text(filename[1]), body[min(blank + 4, end) : end])


def _text(raw: bytes) -> str:
    return re.sub(rb"\\(.)", rb"\1", raw).decode("utf-8", "replace")
