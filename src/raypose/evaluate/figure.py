"""A picture that a validator drew, for the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raypose.errors import DataError

_STARTS: tuple[tuple[bytes, Literal["png", "jpeg", "svg"]], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"<svg", "svg"),
    (b"<?xml", "svg"),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """An encoded image under its title: the bytes of a PNG, JPEG or SVG file."""

    title: str
    image: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.image, bytes) or not self._kinds():
            found = self.image[:8] if isinstance(self.image, bytes) else type(self.image).__name__
            raise DataError(f"figure {self.title!r}: is {found!r}, expected the bytes of a PNG, JPEG or SVG file")

    @property
    def kind(self) -> Literal["png", "jpeg", "svg"]:
        """What the bytes are."""
        return self._kinds()[0]

    def _kinds(self) -> list[Literal["png", "jpeg", "svg"]]:
        start = self.image[:64].lstrip()
        return [kind for magic, kind in _STARTS if start.startswith(magic)]
