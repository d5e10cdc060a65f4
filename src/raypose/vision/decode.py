"""Encoded image bytes to pixels, with limits that hold before memory is spent."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import NamedTuple, cast

import cv2
import numpy as np
import simplejpeg

from raypose.errors import DataError
from raypose.structures import ImageArray

MAX_PIXELS = 178_956_970
"""Pillow's own limit, so that no image passes one check and fails another: above every camera, 0.5 GB decoded."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_MARKERS_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_COMMON_FRAME_MARKERS = frozenset({0xC0, 0xC1, 0xC2})
_JPEG_START_OF_PIXELS = 0xDA
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
    jpeg = _jpeg_header(content)
    size = (jpeg.width, jpeg.height) if jpeg is not None else _png_size(content)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise DataError(
            f"{where}: the image header says {size[0]}x{size[1]} pixels, expected at most {MAX_PIXELS:,} in all;"
            " leave it out or store it smaller"
        )
    # Below 8 pixels, several fractions of a size round to the same.
    if jpeg is not None and not jpeg.has_exif and (reduce == 1 or min(jpeg.width, jpeg.height) >= 8):
        # libjpeg-turbo without OpenCV around it: the same pixels, an eighth sooner.
        least_wide, least_high = -(-jpeg.width // reduce), -(-jpeg.height // reduce)
        with suppress(ValueError):  # damaged or unusual: OpenCV reads what is there, or finds that nothing is
            return cast(ImageArray, simplejpeg.decode_jpeg(content, "RGB", min_height=least_high, min_width=least_wide))
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
    jpeg = _jpeg_header(content)
    return _png_size(content) if jpeg is None else (jpeg.width, jpeg.height)


def _png_size(content: bytes) -> tuple[int, int] | None:
    if not content.startswith(_PNG_SIGNATURE) or len(content) < 24:
        return None
    width, height = struct.unpack_from(">II", content, 16)
    return width, height


def is_plain_jpeg(content: bytes, width: int, height: int) -> bool:
    """Whether this is a JPEG of that size that any decoder reads alike: 8-bit grey or YCbCr, nothing to be turned."""
    jpeg = _jpeg_header(content)
    if jpeg is None or (jpeg.width, jpeg.height) != (width, height):
        return False
    return jpeg.is_common and jpeg.components in (1, 3) and not jpeg.has_exif


class _JpegHeader(NamedTuple):
    width: int
    height: int
    components: int
    is_common: bool
    """Baseline or progressive, Huffman coded, 8 bits."""
    has_exif: bool
    """It may say which side is up, which OpenCV obeys."""


def _jpeg_header(content: bytes) -> _JpegHeader | None:
    """What the segments before the pixels tell; None where they are no JPEG's or have no end."""
    if not content.startswith(b"\xff\xd8"):
        return None
    frame, has_exif, position, last = None, False, 2, len(content) - 10
    while position <= last and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte before the marker
            position += 1
            continue
        if marker in _JPEG_MARKERS_WITHOUT_LENGTH:
            position += 2
            continue
        if marker == _JPEG_START_OF_PIXELS:
            break
        if marker in _JPEG_FRAME_MARKERS:
            bits, height, width, components = struct.unpack_from(">BHHB", content, position + 4)
            frame = width, height, components, marker in _JPEG_COMMON_FRAME_MARKERS and bits == 8
        has_exif = has_exif or content.startswith(b"Exif\0", position + 4)
        position += 2 + (content[position + 2] << 8 | content[position + 3])
    return None if frame is None else _JpegHeader(*frame, has_exif)


def _undecodable(content: bytes, where: str) -> DataError:
    start = content[:8].hex(" ") or "nothing"
    return DataError(
        f"{where}: {len(content)} bytes starting with {start} do not decode as an image;"
        " expected JPEG, PNG or another format that OpenCV reads; replace or remove the image"
    )
