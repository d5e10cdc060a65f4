"""Pickles read as data: a small interpreter of the opcodes that carry values, with no way to import or call code.

Python's own unpickler looks globals up, honours the extension registry and trusts lengths and memo indices. This
one knows a closed table of builders instead. What it does not know, it refuses, so nothing in a file ever runs, and
what a file takes is bounded before it is taken: its bytes, its opcodes, and its value with everything that it
mentions twice counted twice, which is what reading it as an array costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

import numpy as np

from raypose.data.pickle_arrays import LABEL_BUILDERS, LABEL_STEPS
from raypose.data.pickle_machine import PLAIN_STEPS, Builder, Limits, Machine, Unbuilt
from raypose.errors import DataError, UnsafePickleError

PLAIN_LIMITS = Limits(content_bytes=1 << 30, operations=10_000)
"""A record holds one image as it came, and a dozen values beside it."""

LABEL_LIMITS = Limits(content_bytes=16 << 20, operations=200_000)
"""A hundred people with 133 keypoints as lists of floats take 45,000 opcodes."""

MAX_DEPTH = 32

_CONTAINERS = (dict, list, tuple, set, frozenset)
_LEAF_BYTES = 8


def load_plain(content: bytes, where: str) -> object:
    """Builtins from a pickle that names no global at all: dict, list, tuple, str, bytes, int, float, bool, None.

    Raises UnsafePickleError naming the global and `where` for anything else, DataError for broken bytes.
    """
    return Machine(where, {}, PLAIN_STEPS).run(content, PLAIN_LIMITS)


def load_label(content: bytes, where: str) -> object:
    """A label pickle of protocol 0 to 5: builtins, numpy arrays (perhaps read-only) and numpy scalars.

    Raises UnsafePickleError naming the global and `where` for anything that is not data, DataError for broken bytes.
    """
    value = Machine(where, LABEL_BUILDERS, LABEL_STEPS).run(content, LABEL_LIMITS)
    _check_tree(value, where)
    return value


def _check_tree(value: object, where: str) -> None:
    """Refuse builders and half-built arrays, circles, and small files that unfold into giant values."""
    weight_bytes: dict[int, int] = {}
    path: set[int] = set()  # of the containers that hold the one at hand
    waiting = [value] if isinstance(value, _CONTAINERS) else []
    _leaf_bytes(value, where)
    while waiting:
        part = waiting[-1]
        if id(part) in weight_bytes:
            waiting.pop()
        elif id(part) in path:  # everything in it has been weighed
            path.remove(id(part))
            weight_bytes[id(part)] = _weigh(part, weight_bytes, where)
        else:
            path.add(id(part))
            if len(path) > MAX_DEPTH:
                raise _unfit(where, "nested more deeply", f"{MAX_DEPTH} levels")
            inner = [child for child in _children(part) if isinstance(child, _CONTAINERS)]
            if any(id(child) in path for child in inner):
                raise _unfit(where, "that hold themselves", f"{MAX_DEPTH} levels")
            waiting.extend(inner)


def _weigh(part: object, weight_bytes: Mapping[int, int], where: str) -> int:
    total = _LEAF_BYTES
    total += sum(weight_bytes.get(id(child)) or _leaf_bytes(child, where) for child in _children(part))
    if total > LABEL_LIMITS.content_bytes:
        raise _unfit(where, f"of {total:,} bytes when unfolded", f"{LABEL_LIMITS.content_bytes:,}")
    return total


def _children(part: object) -> Iterable[object]:
    if isinstance(part, dict):
        return chain(part, part.values())
    return part if isinstance(part, list | tuple | set | frozenset) else ()


def _leaf_bytes(part: object, where: str) -> int:
    if isinstance(part, Builder | Unbuilt | np.dtype):
        name = part.name if isinstance(part, Builder) else "an unfinished array"
        raise UnsafePickleError(f"{where}: the pickle holds {name}, expected plain data; it was not loaded")
    if isinstance(part, np.ndarray):
        return part.nbytes + _LEAF_BYTES
    return (len(part) if isinstance(part, str | bytes | bytearray) else 0) + _LEAF_BYTES


def _unfit(where: str, what: str, limit: str) -> DataError:
    return DataError(f"{where}: the pickle holds values {what}, expected at most {limit}; write the label again")
