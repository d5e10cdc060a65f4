"""Encoded image bytes to pixels, with limits that hold before memory is spent."""

from __future__ import annotations

import struct
from typing import cast

import cv2
import numpy as np

from raypose.errors import DataError
from raypose.structures import ImageArray

MAX_PIXELS = 178_956_970
"""Pillow's own limit, so that no image passes one check and fails another: above every camera, 0.5 GB decoded."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_MARKERS_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# OpenCV's names for "reduced" say colour or grey, and refuse RGB beside colour; RGB beside grey is reduced RGB.
_RGB_AT = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


def decode_rgb(content: bytes, where: str, *, reduce: int = 1) -> ImageArray:
    """The image as HW3 RGB, turned upright as its EXIF orientation says.

    `reduce` 2, 4 or 8 decodes at that fraction of the size, which a JPEG does in less time. Raises DataError that
    names `where` when the bytes are no image, or one of more than MAX_PIXELS.
    """
    size = header_size(content)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise DataError(
            f"{where}: the image header says {size[0]}x{size[1]} pixels, expected at most {MAX_PIXELS:,} in all;"
            " leave it out or store it smaller"
        )
    try:
        rgb = cv2.imdecode(np.frombuffer(content, np.uint8), _RGB_AT[reduce])
    except cv2.error as error:
        raise _undecodable(content, where) from error
    if rgb is None:
        raise _undecodable(content, where)
    return cast(ImageArray, rgb)


def reduction_for(width: int, height: int, long_side: int) -> int:
    """The largest `reduce` that leaves a width x height image at least `long_side` pixels along its long side.

    Resized to `long_side`, the reduced image differs from the whole one about as much as the results of two good
    resizes differ (2 to 4 of 255 levels on photographs): a JPEG drops the fine frequencies that a resize averages out.
    """
    for reduce in (8, 4, 2):
        if max(width, height) >= reduce * long_side and min(width, height) >= reduce:
            return reduce
    return 1


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
