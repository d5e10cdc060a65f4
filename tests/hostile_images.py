"""Images that strangers send: broken, disguised, oversized and odd ones, each with what has to come of it."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True, slots=True)
class Hostile:
    """`code` is the refusal that is right, or None where the image has to be read, at `size`."""

    name: str
    content: bytes
    code: str | None
    size: tuple[int, int] = (0, 0)


def _saved(kind: str, image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def _noise(mode: str = "RGB", width: int = 16, height: int = 16) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _with_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return _saved("JPEG", _noise(width=24, height=16), exif=exif)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *, bits: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(data)), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _sized_jpeg(width: int, height: int) -> bytes:
    """A small JPEG whose header claims another size."""
    frame = JPEG.index(b"\xff\xc0")
    return JPEG[: frame + 5] + struct.pack(">HH", height, width) + JPEG[frame + 9 :]


JPEG = _saved("JPEG", _noise())
PNG = _saved("PNG", _noise())
WEBP = _saved("WEBP", _noise())
BMP = _saved("BMP", _noise())
_LARGE = _saved("JPEG", _noise(width=300, height=200))
_FRAMES = [_noise(width=16, height=16).rotate(angle) for angle in (0, 90, 180)]
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/><script>alert(1)</script></svg>'

HOSTILE: tuple[Hostile, ...] = (
    # Whole ones of every kind that has to be read.
    Hostile("jpeg", JPEG, None, (16, 16)),
    Hostile("png", PNG, None, (16, 16)),
    Hostile("webp", WEBP, None, (16, 16)),
    Hostile("bmp", BMP, None, (16, 16)),
    Hostile("progressive-jpeg", _saved("JPEG", _noise(), progressive=True), None, (16, 16)),
    Hostile("grey-jpeg", _saved("JPEG", _noise("L")), None, (16, 16)),
    Hostile("cmyk-jpeg", _saved("JPEG", _noise("CMYK")), None, (16, 16)),
    Hostile("palette-png", _saved("PNG", _noise("P")), None, (16, 16)),
    Hostile("one-bit-png", _saved("PNG", _noise("1")), None, (16, 16)),
    Hostile("transparent-png", _saved("PNG", _noise("RGBA")), None, (16, 16)),
    Hostile("16-bit-png", _saved("PNG", Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257)), None,
            (16, 16)),
    Hostile("animated-webp", _saved("WEBP", _FRAMES[0], save_all=True, append_images=_FRAMES[1:]), None, (16, 16)),
    Hostile("animated-png", _saved("PNG", _FRAMES[0], save_all=True, append_images=_FRAMES[1:]), None, (16, 16)),
    Hostile("one-pixel", _saved("PNG", _noise(width=1, height=1)), None, (1, 1)),
    Hostile("1x60000-jpeg", _saved("JPEG", _noise(width=1, height=60000)), None, (1, 60000)),
    Hostile("100000x1-png", _saved("PNG", _noise(width=100000, height=1)), None, (100000, 1)),
    Hostile("bytes-after-the-end", JPEG + b"\0" * 100, None, (16, 16)),
    Hostile("zip-after-the-end", JPEG + b"PK\x03\x04" + b"\0" * 200, None, (16, 16)),
    Hostile("script-in-a-comment", _saved("JPEG", _noise(), comment=b"<?php system($_GET[0]); ?>"), None, (16, 16)),
    Hostile("text-chunk-png", PNG[:33] + _chunk(b"tEXt", b"key\0" + b"<script>" * 100) + PNG[33:], None, (16, 16)),
    # EXIF decides which side is up, and may lie.
    *(Hostile(f"orientation-{value}", _with_orientation(value), None, (16, 24) if value >= 5 else (24, 16))
      for value in range(1, 9)),
    Hostile("orientation-99", _with_orientation(99), None, (24, 16)),
    Hostile("exif-without-end", JPEG[:2] + b"\xff\xe1\x00\x10Exif\0\0MM\0*\xff\xff\xff\xff" + JPEG[2:], None, (16, 16)),
    # Bombs: small files that would fill memory.
    Hostile("png-bomb", _png(50_000, 50_000), "image_too_large"),
    Hostile("png-of-2-to-the-31", _png(2**31 - 1, 2**31 - 1), "image_too_large"),
    Hostile("deflate-bomb", _png(8000, 8000, data=b"\0" * 10_000_000), "image_too_large"),
    Hostile("jpeg-that-claims-65500", _sized_jpeg(65500, 65500), "image_too_large"),
    Hostile("gzipped-jpeg", gzip.compress(JPEG), "unsupported_image"),
    # Cut off or damaged.
    Hostile("half-a-jpeg", _LARGE[: len(_LARGE) // 2], "truncated_image"),
    Hostile("half-a-png", PNG[: len(PNG) // 2], "truncated_image"),
    Hostile("jpeg-header-alone", JPEG[:20], "bad_image"),
    Hostile("three-bytes-of-jpeg", b"\xff\xd8\xff", "bad_image"),
    Hostile("png-signature-alone", PNG[:8], "bad_image"),
    Hostile("png-without-pixels", _png(16, 16), "bad_image"),
    Hostile("png-of-no-width", _png(0, 16), "bad_image"),
    Hostile("webp-header-alone", WEBP[:20], "bad_image"),
    Hostile("bmp-header-alone", BMP[:10], "bad_image"),
    # Something else altogether.
    Hostile("svg", _SVG, "unsupported_image"),
    Hostile("html", b"<!doctype html><script>alert(1)</script>", "unsupported_image"),
    Hostile("pdf", b"%PDF-1.7\n", "unsupported_image"),
    Hostile("gif", _saved("GIF", _noise("P")), "unsupported_image"),
    Hostile("tiff", _saved("TIFF", _noise()), "unsupported_image"),
    Hostile("zip", b"PK\x03\x04" + b"\0" * 30, "unsupported_image"),
    Hostile("pickle", b"\x80\x05cos\nsystem\n(S'true'\ntR.", "unsupported_image"),
    Hostile("svg-that-claims-jpeg", b"\xff\xd8\xff" + _SVG, "bad_image"),
    Hostile("text", b"/etc/passwd", "unsupported_image"),
    Hostile("zeros", b"\0" * 1000, "unsupported_image"),
)  # fmt: skip
