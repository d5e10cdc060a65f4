"""Encoded image bytes to pixels, with limits that hold before memory is spent."""

from __future__ import annotations

import struct
from typing import cast

import cv2
import numpy as np

from raypose.errors import DataError
from raypose.structures import ImageArray

MAX_PIXELS = 1 << 28
"""268 megapixels, 0.8 GB decoded: above every camera, below what takes a worker down."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_MARKERS_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_REDUCED_COLOR = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}


def decode_rgb(content: bytes, where: str, *, reduce: int = 1) -> ImageArray:
    """The image as HW3 RGB, turned upright as its EXIF orientation says.

    `reduce` 2 or 4 decodes at that fraction of the size, which JPEG does in a fraction of the time. Raises
    DataError that names `where` when the bytes are no image, or one of more than MAX_PIXELS.
    """
    size = header_size(content)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise DataError(
            f"{where}: the image header says {size[0]}x{size[1]} pixels, expected at most {MAX_PIXELS:,} in all;"
            " leave it out or store it smaller"
        )
    try:
        bgr = cv2.imdecode(np.frombuffer(content, np.uint8), _REDUCED_COLOR[reduce])
    except cv2.error as error:
        raise _undecodable(content, where) from error
    if bgr is None:
        raise _undecodable(content, where)
    return cast(ImageArray, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def header_size(content: bytes) -> tuple[int, int] | None:
    """Stored (width, height) of a JPEG or PNG, before any EXIF turn; None where the header does not tell."""
    if content.startswith(_PNG_SIGNATURE) and len(content) >= 24:
        width, height = struct.unpack_from(">II", content, 16)
        return width, height
    if content.startswith(b"\xff\xd8"):
        return _jpeg_size(content)
    return None


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    position = 2
    while position + 9 <= len(content):
        if content[position] != 0xFF:
            return None
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte before the marker
            position += 1
        elif marker in _JPEG_MARKERS_WITHOUT_LENGTH:
            position += 2
        elif marker in _JPEG_FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", content, position + 5)
            return width, height
        else:
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return None


def _undecodable(content: bytes, where: str) -> DataError:
    start = content[:8].hex(" ") or "nothing"
    return DataError(
        f"{where}: {len(content)} bytes starting with {start} do not decode as an image;"
        " expected JPEG, PNG or another format that OpenCV reads; replace or remove the image"
    )
