"""Sizes as people write them: `50GiB`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_PREFIXES = ("", "K", "M", "G", "T")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(?:([KMGT])(i?))?B", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of a size such as `50GiB` (powers of 1024) or `50GB` (of 1000); raises ValueError for anything else."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError(f"must be a number of bytes or a size such as 50GiB, found {text!r}")
    number, prefix, binary = found.groups(default="")
    scale: int = (1024 if binary else 1000) ** _PREFIXES.index(prefix.upper())
    return round(float(number) * scale)


def _parse(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else value


ByteSize = Annotated[int, Field(ge=1), BeforeValidator(_parse)]
"""A positive number of bytes in a configuration, which may be written as a size."""

ByteBudget = Annotated[int, Field(ge=0), BeforeValidator(_parse)]
"""The same, or 0 for none."""
