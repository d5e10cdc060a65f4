"""What samples, classes and keypoints may be called: lines are printed with it, files named after it."""

from __future__ import annotations

import re
import unicodedata

from raypose.errors import DataError

MAX_ID_CHARACTERS = 1_000

_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode's control characters, lone surrogates, and separators of lines and paragraphs."""


def is_printable(name: str) -> bool:
    """Whether a name stays on its line and commands no terminal."""
    return (name.isascii() and name.isprintable()) or all(
        unicodedata.category(mark) not in _UNPRINTABLE for mark in name
    )


def check_sample_id(sample_id: str, where: str) -> None:
    """Raise DataError that names `where` unless the id is a relative path that stays below where it starts."""
    fault = ""
    if not sample_id or len(sample_id) > MAX_ID_CHARACTERS:
        fault = f"{len(sample_id):,} characters, expected 1 to {MAX_ID_CHARACTERS:,}"
    elif not is_printable(sample_id):
        fault = "control characters or line ends"
    elif sample_id.startswith("/") or ".." in re.split(r"[/\\]", sample_id):
        fault = "a path that leaves its folder"
    if fault:
        raise DataError(f"{where}: sample id {sample_id[:80]!a} has {fault}; give the image another name")
