"""From a body to the images in it, and from an image to pixels: everything that a stranger sends is checked here."""

from __future__ import annotations

import base64
import binascii
import io
import json
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError

from raypose.config.serve_schema import LimitsConfig
from raypose.errors import DataError
from raypose.serve.multipart import parse_multipart
from raypose.serve.problem import Problem
from raypose.structures import ImageArray
from raypose.vision.decode import decode_rgb, header_size

_SIGNATURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"BM": "BMP"}
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_END_WITHIN_BYTES = 1024
"""A whole file ends with its end mark, but for a few bytes that some programs add."""
_NAME_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Upload:
    """An encoded image as it was sent. `name` is for the answer and the log alone."""

    name: str
    content: bytes


def uploads_of(body: bytes, content_type: str, limits: LimitsConfig) -> list[Upload]:
    """The images of a body: JSON, a form, or the bytes of one image; Problem where there are none or too many."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        uploads = _of_json(body)
    elif kind == "multipart/form-data":
        parts = parse_multipart(body, content_type, most=limits.images)
        uploads = [Upload(_shown(part.filename or part.name), part.content) for part in parts]
    else:
        uploads = [Upload("image", body)] if body else []
    if not uploads:
        raise Problem("no_image", "the request has no image; send its bytes, a form with files, or JSON with base64")
    if len(uploads) > limits.images:
        raise Problem("too_many_images", f"{len(uploads)} images, at most {limits.images} a request")
    return uploads


def _of_json(body: bytes) -> list[Upload]:
    """`{"images": ["<base64>", {"name": …, "data": "<base64>"}]}`."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem("bad_body", "the body is not JSON") from error
    entries = raw.get("images") if isinstance(raw, dict) else None
    if not isinstance(entries, list):
        raise Problem("bad_body", 'the JSON has no list "images" of base64 texts')
    return [_of_entry(entry, number) for number, entry in enumerate(entries)]


def _of_entry(entry: Any, number: int) -> Upload:
    name, data = f"images[{number}]", entry
    if isinstance(entry, dict):
        name, data = str(entry.get("name", name)), entry.get("data")
    if not isinstance(data, str):
        raise Problem("bad_body", f'images[{number}] is neither base64 text nor {{"name": …, "data": base64}}')
    if data.startswith("data:"):
        data = data.partition(",")[2]
    try:
        return Upload(_shown(name), base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError) as error:
        raise Problem("bad_body", f"images[{number}] is not base64") from error


def _shown(name: str) -> str:
    """A name that cannot harm a log or a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:_NAME_CHARACTERS])


def pixels_of(upload: Upload, limits: LimitsConfig) -> ImageArray:
    """The image as HW3 RGB, upright; Problem for what is no whole JPEG, PNG, WebP or BMP of a size that is allowed."""
    kind = _kind_of(upload)
    width, height = _size_of(upload, kind)
    if width * height > limits.image_pixels:
        raise Problem(
            "image_too_large",
            f"{upload.name}: {width}x{height} are {width * height:,} pixels, at most {limits.image_pixels:,}",
        )
    if kind in _ENDS and _ENDS[kind] not in upload.content[-_END_WITHIN_BYTES:]:
        _require_whole(upload, kind)
    try:
        return decode_rgb(upload.content, upload.name)
    except DataError as error:
        raise Problem("bad_image", f"{upload.name}: the {kind} cannot be decoded") from error


def _kind_of(upload: Upload) -> str:
    content = upload.content
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    for signature, kind in _SIGNATURES.items():
        if content.startswith(signature):
            return kind
    if not content:
        raise Problem("no_image", f"{upload.name}: no bytes")
    raise Problem("unsupported_image", f"{upload.name}: neither JPEG, PNG, WebP nor BMP, by its first bytes")


def _size_of(upload: Upload, kind: str) -> tuple[int, int]:
    """Width and height by the header, without decoding a pixel."""
    size = header_size(upload.content)
    if size is None:  # formats and headers that are rare enough to be worth a tenth of a millisecond
        try:
            with Image.open(io.BytesIO(upload.content), formats=(kind,)) as image:
                size = image.size
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise Problem("bad_image", f"{upload.name}: the {kind} has no readable header") from error
    if 0 in size:
        raise Problem("bad_image", f"{upload.name}: the {kind} is {size[0]}x{size[1]} pixels")
    return size


def _require_whole(upload: Upload, kind: str) -> None:
    """An image without its end: OpenCV would fill with grey what is missing, and people in it would be missed."""
    try:
        with Image.open(io.BytesIO(upload.content), formats=(kind,)) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Problem("truncated_image", f"{upload.name}: the {kind} is damaged or cut off before its end") from error
