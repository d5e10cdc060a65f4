"""A short way through the pickle that a record is: one dict of names with text, bytes and small numbers.

The interpreter of `safe_pickle` goes through it opcode by opcode and takes a tenth of the time of a whole training
image. What is laid out in any other way, or broken, is left to that interpreter, which also knows what to say.
"""

from __future__ import annotations

from raypose.data.safe_pickle import load_plain

_HEAD = 4
"""PROTO 5, EMPTY_DICT, MARK."""
_FRAME, _FRAME_SIZE = 0x95, 9
_NUMBER_BYTES = {ord("K"): 1, ord("M"): 2}  # BININT1, BININT2
_LENGTH_BYTES = {0x8C: 1, ord("X"): 4, ord("C"): 1, ord("B"): 4}  # of the length before text, and before bytes
_TEXT = frozenset({0x8C, ord("X")})  # SHORT_BINUNICODE, BINUNICODE
_MEMOIZE, _BINGET = 0x94, ord("h")
_MAX_VALUES = 64


def load_record(content: bytes, where: str) -> object:
    """What `load_plain` returns or raises, sooner where the pickle is a flat dict."""
    record = flat_dict(content)
    return load_plain(content, where) if record is None else record


def flat_dict(content: bytes) -> dict[object, object] | None:
    """The dict of a pickle of protocol 5 without nesting and globals; None where it is anything else."""
    framed = content[2:3] == b"\x95"
    start = _HEAD + _FRAME_SIZE * framed
    end = len(content) - 2
    if content[:2] != b"\x80\x05" or content[start - 2 : start] != b"}(" or content[end:] != b"u.":
        return None
    values: list[object] = []
    memo: list[object] = []  # two fields of one equal byte are one object to a pickler
    position = start
    while position < end and len(values) < _MAX_VALUES:
        opcode = content[position]
        position += 1
        if (size := _LENGTH_BYTES.get(opcode)) is not None:
            first = position + size
            position = first + int.from_bytes(content[position:first], "little")
            body = content[first:position]
            try:
                values.append(body.decode() if opcode in _TEXT else body)
            except UnicodeDecodeError:
                return None
        elif (size := _NUMBER_BYTES.get(opcode)) is not None:
            values.append(int.from_bytes(content[position : position + size], "little"))
            position += size
        elif opcode == _FRAME:
            position += _FRAME_SIZE - 1
        elif opcode == _MEMOIZE and values:
            memo.append(values[-1])
        elif opcode == _BINGET and content[position] < len(memo):
            values.append(memo[content[position]])
            position += 1
        else:
            return None
    if position != end or len(values) % 2:
        return None
    return dict(zip(values[::2], values[1::2], strict=True))
