"""Whether an encoded image is whole. OpenCV fills what is missing of a JPEG with grey and says nothing."""

from __future__ import annotations

import io
import struct

from PIL import Image, ImageFile, UnidentifiedImageError

from raypose.errors import DataError
from raypose.vision.decode import MAX_PIXELS, decode_rgb

_EXIF_ORIENTATION = 0x0112
_TURNED = range(5, 9)
"""EXIF orientations that exchange width and height."""


def image_size(content: bytes, where: str) -> tuple[int, int]:
    """(width, height) of the upright image, as `vision.decode` will see it, from the header alone."""
    with _opened(content, where) as image:
        width, height = image.size
        try:
            turned = image.getexif().get(_EXIF_ORIENTATION) in _TURNED
        except (OSError, SyntaxError, ValueError, KeyError, struct.error):  # OpenCV passes over broken EXIF too
            turned = False
    return (height, width) if turned else (width, height)


def check_image(content: bytes, where: str, *, expected: tuple[int, int]) -> None:
    """Decode every byte; raises DataError for damage, a missing end, or another size than `expected` (w, h).

    Labels refer to the upright image. Where EXIF turns it and the labels' size is that of the stored pixels, the
    labels were made on the unturned image, and the message says so.
    """
    _check_whole(content, where)
    height, width = decode_rgb(content, where).shape[:2]
    if (width, height) == expected:
        return
    hint = "check the labels' size"
    if (height, width) == expected:
        hint = "its EXIF orientation turns it: save it upright, or strip the orientation if the labels ignore it"
    raise DataError(f"{where}: image is {width}x{height} pixels, its labels say {expected[0]}x{expected[1]}; {hint}")


def _check_whole(content: bytes, where: str) -> None:
    with _opened(content, where) as image:
        # Every coded byte is read, but at an eighth of the size and without colour: far cheaper than a full decode.
        image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
        try:
            image.load()
        except (OSError, SyntaxError, ValueError, MemoryError) as error:
            raise DataError(f"{where}: damaged or cut-off image: {error}; replace or remove it") from error


def _opened(content: bytes, where: str) -> Image.Image:
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise DataError(f"{where}: PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, so damage cannot be seen; unset it")
    try:
        image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        raise DataError(f"{where}: too large: {error}; shrink or remove it") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        start = content[:8].hex(" ") or "nothing"
        raise DataError(
            f"{where}: {len(content):,} bytes starting with {start} are no image; replace or remove it"
        ) from error
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{where}: {image.width}x{image.height} pixels, expected at most {MAX_PIXELS:,} in all")
    return image
