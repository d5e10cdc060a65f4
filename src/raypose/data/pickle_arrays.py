"""What a label pickle may hold beyond builtins: numpy arrays and scalars, sets and bytearrays, of every protocol."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from raypose.data.pickle_machine import (
    PLAIN_STEPS,
    Builder,
    Machine,
    MalformedError,
    Step,
    Unbuilt,
    check_text,
    hashable,
    push,
    push_from_mark,
)

_MAX_DIMENSIONS = 32
_MAX_SIDE = 1 << 40
_DTYPE_NAME = re.compile(r"b1|[iu][1248]|f[248]|[US][1-9][0-9]{0,6}")


def _reduce(machine: Machine, _: None) -> None:
    target, arguments = machine.pop_many(2)
    if type(target) is not Builder or target.call is None or type(arguments) is not tuple:
        machine.refuse(f"a call of {target.name if type(target) is Builder else type(target).__name__}")
    machine.stack.append(target.call(*arguments))


def _build(machine: Machine, _: None) -> None:
    state = machine.pop()
    target = machine.pop()
    if type(target) is not Unbuilt or target.value is not None or type(state) is not tuple:
        machine.refuse(f"a change of the inside of {type(target).__name__}")
    target.value = target.finish(*state)
    machine.stack.append(target.value)


def _add_many(machine: Machine, _: None) -> None:
    values = machine.pop_to_mark()
    machine.top(set).update(map(hashable, values))


LABEL_STEPS: dict[str, Step] = PLAIN_STEPS | {
    "BYTEARRAY8": lambda machine, value: machine.stack.append(value),
    "EMPTY_SET": push(set),
    "ADDITEMS": _add_many,
    "FROZENSET": push_from_mark(lambda values: frozenset(map(hashable, values))),
    "REDUCE": _reduce,
    "BUILD": _build,
}


def _start_dtype(name: object, _align: object, _copy: object) -> Unbuilt:
    if type(name) is not str or not _DTYPE_NAME.fullmatch(name):
        raise MalformedError(f"array of dtype {str(name)[:40]!r}, expected numbers, booleans or text")

    def finish(_version: object, order: object, *_layout: object) -> np.dtype[Any]:
        if order not in ("<", ">", "|", "="):
            raise MalformedError("a dtype without a byte order")
        if any(part is not None for part in _layout[:3]):
            raise MalformedError("a structured dtype, expected numbers, booleans or text")
        return np.dtype(name).newbyteorder(order)

    return Unbuilt(finish)


def _start_array(*_: object) -> Unbuilt:
    def finish(_version: object, shape: object, dtype: object, is_fortran: object, data: object) -> object:
        return _array(data, dtype, shape, "F" if is_fortran else "C")

    return Unbuilt(finish)


def _array(data: object, dtype: object, shape: object, order: object, axis_order: Any = None) -> object:
    """An array over `data`, whose size must be exactly what shape and dtype say; takes no other memory."""
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes | bytearray):
        raise MalformedError("an array without bytes or dtype")
    if type(shape) is not tuple or len(shape) > _MAX_DIMENSIONS:
        raise MalformedError("an array without a proper shape")
    is_proper = all(type(side) is int and 0 <= side <= _MAX_SIDE for side in shape)
    if not is_proper or math.prod(shape) * dtype.itemsize != len(data):
        raise MalformedError(f"an array of shape {str(shape)[:80]} and dtype {dtype} over {len(data):,} bytes")
    # Any byte but 0 and 1 would make a boolean that is neither.
    flat = np.frombuffer(data, np.uint8) != 0 if dtype.kind == "b" else np.frombuffer(data, dtype)
    if dtype.kind == "U":
        for text in flat.tolist():  # numpy itself refuses what lies beyond Unicode
            check_text(text)
    if order == "K" and axis_order is not None:
        return flat.reshape(shape).transpose(axis_order)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: object, data: object) -> object:
    return _array(data, dtype, (1,), "C")[0]  # type: ignore[index]


def _encode(text: object, encoding: object) -> bytes:
    """How protocols 0 to 2 spell bytes."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise MalformedError("bytes in an encoding that no pickler writes")
    return text.encode("latin-1")


def _bytearray(content: object = b"", encoding: object = None) -> bytearray:
    return bytearray(_encode(content, encoding) if encoding is not None else _exactly(bytes, content))


def _exactly(kind: type, value: object) -> Any:
    if type(value) is not kind:
        raise MalformedError(f"{type(value).__name__} where {kind.__name__} belongs")
    return value


def _members(values: object) -> list[Any]:
    return [hashable(value) for value in _exactly(list, values)]


def _label_builders() -> dict[str, Builder]:
    calls: dict[str, Callable[..., object] | None] = {
        "_codecs.encode": _encode,
        "numpy.dtype": _start_dtype,
        "numpy.ndarray": None,
    }
    for module in ("builtins", "__builtin__"):
        calls[f"{module}.bytes"] = lambda: b""
        calls[f"{module}.bytearray"] = _bytearray
        calls[f"{module}.set"] = lambda values=None: set(_members(values or []))
        calls[f"{module}.frozenset"] = lambda values=None: frozenset(_members(values or []))
    for core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
        calls[f"{core}.multiarray._reconstruct"] = _start_array
        calls[f"{core}.multiarray.scalar"] = _scalar
        calls[f"{core}.numeric._frombuffer"] = _array
    return {name: Builder(name, call) for name, call in calls.items()}


LABEL_BUILDERS = _label_builders()
