"""Small real image files for tests of importers and exporters."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 200, 100


def picture(kind: str = "JPEG", width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> bytes:
    """An encoded picture; equal arguments give equal bytes."""
    buffer = io.BytesIO()
    tile = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
    Image.fromarray(tile).resize((width, height)).save(buffer, kind)
    return buffer.getvalue()


def write_pictures(folder: Path, names: Iterable[str]) -> Path:
    """A folder with a picture under each name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture("PNG" if name.lower().endswith("png") else "JPEG"))
    return folder
