"""Small damage to bytes, pickles and values, chosen by a random generator."""

from __future__ import annotations

import pickletools
import random
from typing import Any

import numpy as np

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, -(2**31), 2**63 - 1, 2**64 - 1, 2**80, 10**400, 0.5, -0.0, 1e308, float("nan"),
    float("inf"), "", "a", "../../etc/passwd", "/abs", "a\0b", "\n", "\udc80", "\x1b[2J", "9" * 5000, b"", b"\0" * 9,
    [], {}, (), [[]], [{}], {"": None}, {1: 2}, {None: 1}, set(), frozenset({1}), bytearray(b"x"),
    ["x" * 5000, *[""] * 3000], [[1.0] * 40] * 40, np.float32(2), np.int64(-7), np.zeros(0), np.zeros((0, 5)),
    np.zeros((2, 3)), np.ones((1, 56)), np.full((3, 2), np.nan), np.array(["a", "bc"]), np.array([b"x"]),
    np.arange(12).reshape(2, 2, 3), np.array(True), np.zeros((1, 3, 3), ">f4"), np.array([2**63], np.uint64),
)  # fmt: skip
ODD_BYTES = (b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x80", b"\x00\x01", b"../", b"\n")
ODD_OPCODES = (
    b"(", b")", b"]", b"}", b"\x8f", b"t", b"l", b"d", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"\x90", b"R",
    b"b", b"\x93", b"\x94", b"h\0", b"q\0", b"h\1", b"N", b"\x88", b"K\7", b"\x8c\2os", b"\x8c\6system", b"0", b"2",
    b"cposix\nsystem\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\nscalar\n", b"\x8a\1\7", b"C\3abc", b"\x91",
)  # fmt: skip


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """One to six changes: flipped bits, odd numbers, cut, doubled or moved pieces."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        start = rng.randrange(len(changed) + 1)
        stop = min(len(changed), start + rng.choice((1, 1, 2, 4, 8, 32, 200)))
        match rng.randrange(7):
            case 0 if start < len(changed):
                changed[start] ^= 1 << rng.randrange(8)
            case 1 if start < len(changed):
                changed[start] = rng.randrange(256)
            case 2:
                piece = rng.choice(ODD_BYTES)
                changed[start : start + len(piece)] = piece
            case 3:
                del changed[start:stop]
            case 4:
                changed[start:start] = changed[start:stop]
            case 5:
                place = rng.randrange(len(changed) + 1)
                changed[place:place] = changed[start:stop]
            case 6 if rng.random() < 0.2:
                del changed[start:]
    return bytes(changed)


def mutate_opcodes(rng: random.Random, content: bytes) -> bytes:
    """One to four whole opcodes of a pickle left out, doubled, exchanged or put in."""
    starts = [position for _, _, position in pickletools.genops(content) if position is not None]
    parts = [content[start:stop] for start, stop in zip(starts, [*starts[1:], len(content)], strict=True)]
    for _ in range(rng.randint(1, 4)):
        place, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        match rng.randrange(4):
            case 0 if len(parts) > 1:
                del parts[place]
            case 1:
                parts.insert(place, parts[other])
            case 2:
                parts[place], parts[other] = parts[other], parts[place]
            case 3:
                parts.insert(place, rng.choice(ODD_OPCODES))
    return b"".join(parts)


def mutate_value(rng: random.Random, value: Any, odd: tuple[Any, ...] = ODD_VALUES) -> Any:
    """The value with one to three of its parts, at any depth, replaced by an odd one, left out, doubled or renamed."""
    for _ in range(rng.randint(1, 3)):
        value = _replace(rng, value, odd)
    return value


def _replace(rng: random.Random, value: Any, odd: tuple[Any, ...]) -> Any:
    goes_deeper = rng.random() < 0.92
    if isinstance(value, dict) and value and goes_deeper:
        return _change_dict(rng, value, odd)
    if isinstance(value, list) and value and goes_deeper:
        return _change_list(rng, value, odd)
    if isinstance(value, bytes) and value and rng.random() < 0.6:
        return mutate_bytes(rng, value)
    return rng.choice(odd)


def _change_dict(rng: random.Random, value: dict[Any, Any], odd: tuple[Any, ...]) -> dict[Any, Any]:
    key = rng.choice(list(value))
    match rng.randrange(12):
        case 0:
            return {name: part for name, part in value.items() if name != key}
        case 1:
            return {f"{name}x" if name == key else name: part for name, part in value.items()}
        case 2:
            return {**value, "more": rng.choice(odd)}
    return {**value, key: _replace(rng, value[key], odd)}


def _change_list(rng: random.Random, value: list[Any], odd: tuple[Any, ...]) -> list[Any]:
    place = rng.randrange(len(value))
    match rng.randrange(12):
        case 0:
            return value[:place] + value[place + 1 :]
        case 1:
            return [*value, value[place]]
    return [_replace(rng, part, odd) if index == place else part for index, part in enumerate(value)]
