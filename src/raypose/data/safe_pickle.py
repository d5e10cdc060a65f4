"""Pickles read as data: a small interpreter of the opcodes that carry values, with no way to import or call code.

Python's own unpickler looks globals up, honours the extension registry and trusts lengths and memo indices. This
one knows a closed table of builders instead. What it does not know, it refuses, so nothing in a file ever runs.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from raypose.errors import DataError, UnsafePickleError

MAX_PLAIN_BYTES = 1 << 30
MAX_LABEL_BYTES = 64 << 20
MAX_OPERATIONS = 1_000_000
"""An opcode is one byte and may cost 64 bytes of memory, so a file's size alone does not bound what it takes."""

_NEWEST_PROTOCOL = 5
_MAX_DIMENSIONS = 32


def load_plain(content: bytes, where: str) -> object:
    """Builtins from a pickle that names no global at all: dict, list, tuple, str, bytes, int, float, bool, None.

    Raises UnsafePickleError naming the global and `where` for anything else, DataError for broken bytes.
    """
    return _Interpreter(where, {}, _PLAIN_STEPS).run(content, MAX_PLAIN_BYTES)


def load_label(content: bytes, where: str) -> object:
    """A label pickle of protocol 0 to 5: builtins, numpy arrays (perhaps read-only) and numpy scalars.

    Raises UnsafePickleError naming the global and `where` for anything that is not data, DataError for broken bytes.
    """
    value = _Interpreter(where, _LABEL_BUILDERS, _LABEL_STEPS).run(content, MAX_LABEL_BYTES)
    _check_finished(value, where)
    return value


@dataclass(frozen=True, slots=True)
class _Builder:
    """A global of the closed table: its name and, where a pickle may call it, what stands in for it."""

    name: str
    call: Callable[..., object] | None


@dataclass(slots=True, eq=False)
class _Unbuilt:
    """An array or dtype between its REDUCE and its BUILD opcode; `value` is what it has become."""

    finish: Callable[..., object]
    value: object = None


class _MalformedError(Exception):
    """The bytes are not what a pickler writes; becomes a DataError that names the file."""


_MARK = object()


@dataclass(slots=True)
class _Interpreter:
    """One pickle's stack and memo."""

    where: str
    builders: Mapping[str, _Builder]
    steps: Mapping[str, Callable[[_Interpreter, Any], None]]
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, content: bytes, limit_bytes: int) -> object:
        """The value of the pickle. Nothing of it outlives an error."""
        if len(content) > limit_bytes:
            raise DataError(f"{self.where}: pickle of {len(content):,} bytes, expected at most {limit_bytes:,}")
        try:
            return self._interpret(content)
        except DataError:
            raise
        except _MalformedError as error:
            raise self._broken(content, str(error)) from error
        except Exception as error:  # broken bytes can fail in as many ways as there are opcodes
            raise self._broken(content, f"{type(error).__name__}: {error}"[:200].replace("\n", " ")) from error

    def _interpret(self, content: bytes) -> object:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(content)):
            if count >= MAX_OPERATIONS:
                raise _MalformedError(f"more than {MAX_OPERATIONS:,} opcodes")
            name = opcode.name
            if name in _LITERALS:
                self.stack.append(argument)
            elif name == "STOP":
                if len(self.stack) != 1 or (position or 0) + 1 != len(content):
                    raise _MalformedError("it does not end where it stops, with one value")
            elif (step := self.steps.get(name)) is not None:
                step(self, argument)
            else:
                self.refuse(f"opcode {name}" if argument is None else f"opcode {name} ({str(argument)[:80]})")
        return self.pop()

    def refuse(self, asked: str) -> NoReturn:
        """Stop before something that is not data."""
        raise UnsafePickleError(
            f"{self.where}: the pickle asks for {asked}, expected plain data; it was not loaded and nothing in it ran;"
            " save it again as dicts, lists, numbers and numpy arrays"
        )

    def _broken(self, content: bytes, reason: str) -> DataError:
        return DataError(
            f"{self.where}: not a readable pickle ({len(content):,} bytes): {reason}; write or fetch the file again"
        )

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise _MalformedError("a mark where a value belongs")
        return value

    def pop_to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise _MalformedError("no mark on the stack")

    def pop_many(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise _MalformedError(f"{type(self.stack[-1]).__name__} on the stack where a {kind.__name__} belongs")
        return self.stack[-1]


def _protocol(machine: _Interpreter, version: int) -> None:
    if version > _NEWEST_PROTOCOL:
        raise _MalformedError(f"protocol {version}, expected 0 to {_NEWEST_PROTOCOL}")


def _remember(machine: _Interpreter, index: int | None) -> None:
    if machine.stack[-1] is _MARK:
        raise _MalformedError("a mark in the memo")
    machine.memo[len(machine.memo) if index is None else index] = machine.stack[-1]


def _recall(machine: _Interpreter, index: int) -> None:
    value = machine.memo[index]
    if type(value) is _Unbuilt and value.value is not None:
        value = value.value
    machine.stack.append(value)


def _append(machine: _Interpreter, _: None) -> None:
    value = machine.pop()
    machine.top(list).append(value)


def _append_many(machine: _Interpreter, _: None) -> None:
    values = machine.pop_to_mark()
    machine.top(list).extend(values)


def _set_item(machine: _Interpreter, _: None) -> None:
    key, value = machine.pop_many(2)
    machine.top(dict)[key] = value


def _set_many(machine: _Interpreter, _: None) -> None:
    pairs = machine.pop_to_mark()
    machine.top(dict).update(zip(pairs[::2], pairs[1::2], strict=True))


def _dict_to_mark(machine: _Interpreter, _: None) -> None:
    pairs = machine.pop_to_mark()
    machine.stack.append(dict(zip(pairs[::2], pairs[1::2], strict=True)))


def _add_many(machine: _Interpreter, _: None) -> None:
    values = machine.pop_to_mark()
    machine.top(set).update(values)


def _global(machine: _Interpreter, dotted: str) -> None:
    name = ".".join(dotted.split(" "))
    builder = machine.builders.get(name)
    if builder is None:
        machine.refuse(name[:200])
    machine.stack.append(builder)


def _stack_global(machine: _Interpreter, _: None) -> None:
    module, name = machine.pop_many(2)
    if type(module) is not str or type(name) is not str:
        raise _MalformedError("a global whose name is no text")
    _global(machine, f"{module} {name}")


def _reduce(machine: _Interpreter, _: None) -> None:
    target, arguments = machine.pop_many(2)
    if type(target) is not _Builder or target.call is None or type(arguments) is not tuple:
        machine.refuse(f"a call of {target.name if type(target) is _Builder else type(target).__name__}")
    machine.stack.append(target.call(*arguments))


def _build(machine: _Interpreter, _: None) -> None:
    state = machine.pop()
    target = machine.pop()
    if type(target) is not _Unbuilt or target.value is not None or type(state) is not tuple:
        machine.refuse(f"a change of the inside of {type(target).__name__}")
    target.value = target.finish(*state)
    machine.stack.append(target.value)


def _push(make: Callable[[], object]) -> Callable[[_Interpreter, Any], None]:
    return lambda machine, _: machine.stack.append(make())


def _push_from_mark(make: Callable[[list[Any]], object]) -> Callable[[_Interpreter, Any], None]:
    return lambda machine, _: machine.stack.append(make(machine.pop_to_mark()))


def _push_tuple(count: int) -> Callable[[_Interpreter, Any], None]:
    return lambda machine, _: machine.stack.append(tuple(machine.pop_many(count)))


def _nothing(machine: _Interpreter, _: object) -> None:
    """FRAME only announces how far to read ahead."""


_LITERALS = frozenset(
    {
        "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
    }
)  # fmt: skip
"""Opcodes whose decoded argument is the value itself."""

_PLAIN_STEPS: dict[str, Callable[[_Interpreter, Any], None]] = {
    "PROTO": _protocol,
    "FRAME": _nothing,
    "NONE": _push(lambda: None),
    "NEWTRUE": _push(lambda: True),
    "NEWFALSE": _push(lambda: False),
    "MARK": _push(lambda: _MARK),
    "EMPTY_LIST": _push(list),
    "EMPTY_DICT": _push(dict),
    "EMPTY_TUPLE": _push(tuple),
    "LIST": _push_from_mark(list),
    "TUPLE": _push_from_mark(tuple),
    "TUPLE1": _push_tuple(1),
    "TUPLE2": _push_tuple(2),
    "TUPLE3": _push_tuple(3),
    "DICT": _dict_to_mark,
    "APPEND": _append,
    "APPENDS": _append_many,
    "SETITEM": _set_item,
    "SETITEMS": _set_many,
    "MEMOIZE": _remember,
    "PUT": _remember,
    "BINPUT": _remember,
    "LONG_BINPUT": _remember,
    "GET": _recall,
    "BINGET": _recall,
    "LONG_BINGET": _recall,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
}

_LABEL_STEPS = _PLAIN_STEPS | {
    "BYTEARRAY8": lambda machine, value: machine.stack.append(value),
    "EMPTY_SET": _push(set),
    "ADDITEMS": _add_many,
    "FROZENSET": _push_from_mark(frozenset),
    "REDUCE": _reduce,
    "BUILD": _build,
}

_DTYPE_NAME = re.compile(r"b1|[iu][1248]|f[248]|[US][1-9][0-9]{0,6}")


def _start_dtype(name: object, _align: object, _copy: object) -> _Unbuilt:
    if type(name) is not str or not _DTYPE_NAME.fullmatch(name):
        raise _MalformedError(f"array of dtype {str(name)[:40]!r}, expected numbers, booleans or text")

    def finish(_version: object, order: object, *_layout: object) -> np.dtype[Any]:
        if order not in ("<", ">", "|", "="):
            raise _MalformedError("a dtype without a byte order")
        if any(part is not None for part in _layout[:3]):
            raise _MalformedError("a structured dtype, expected numbers, booleans or text")
        return np.dtype(name).newbyteorder(order)

    return _Unbuilt(finish)


def _start_array(*_: object) -> _Unbuilt:
    def finish(_version: object, shape: object, dtype: object, is_fortran: object, data: object) -> object:
        return _array(data, dtype, shape, "F" if is_fortran else "C")

    return _Unbuilt(finish)


def _array(data: object, dtype: object, shape: object, order: object, axis_order: Any = None) -> object:
    """An array over `data`, whose size must be exactly what shape and dtype say; takes no other memory."""
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes | bytearray):
        raise _MalformedError("an array without bytes or dtype")
    if type(shape) is not tuple or len(shape) > _MAX_DIMENSIONS:
        raise _MalformedError("an array without a proper shape")
    if not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise _MalformedError(f"an array of shape {str(shape)[:80]} and dtype {dtype} over {len(data):,} bytes")
    # Any byte but 0 and 1 would make a boolean that is neither.
    flat = np.frombuffer(data, np.uint8) != 0 if dtype.kind == "b" else np.frombuffer(data, dtype)
    if order == "K" and axis_order is not None:
        return flat.reshape(shape).transpose(axis_order)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: object, data: object) -> object:
    return _array(data, dtype, (1,), "C")[0]  # type: ignore[index]


def _encode(text: object, encoding: object) -> bytes:
    """How protocols 0 to 2 spell bytes."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise _MalformedError("bytes in an encoding that no pickler writes")
    return text.encode("latin-1")


def _bytearray(content: object = b"", encoding: object = None) -> bytearray:
    return bytearray(_encode(content, encoding) if encoding is not None else _exactly(bytes, content))


def _exactly(kind: type, value: object) -> Any:
    if type(value) is not kind:
        raise _MalformedError(f"{type(value).__name__} where {kind.__name__} belongs")
    return value


def _label_builders() -> dict[str, _Builder]:
    calls: dict[str, Callable[..., object] | None] = {
        "_codecs.encode": _encode,
        "numpy.dtype": _start_dtype,
        "numpy.ndarray": None,
    }
    for module in ("builtins", "__builtin__"):
        calls[f"{module}.bytes"] = lambda: b""
        calls[f"{module}.bytearray"] = _bytearray
        calls[f"{module}.set"] = lambda values=(): set(_exactly(list, values or []))
        calls[f"{module}.frozenset"] = lambda values=(): frozenset(_exactly(list, values or []))
    for core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
        calls[f"{core}.multiarray._reconstruct"] = _start_array
        calls[f"{core}.multiarray.scalar"] = _scalar
        calls[f"{core}.numeric._frombuffer"] = _array
    return {name: _Builder(name, call) for name, call in calls.items()}


_LABEL_BUILDERS = _label_builders()


def _check_finished(value: object, where: str) -> None:
    """Refuse builders and half-built arrays that a crafted pickle left in its value."""
    waiting, seen = [value], set[int]()
    while waiting:
        part = waiting.pop()
        if isinstance(part, _Builder | _Unbuilt | np.dtype):
            name = part.name if isinstance(part, _Builder) else "an unfinished array"
            raise UnsafePickleError(f"{where}: the pickle holds {name}, expected plain data; it was not loaded")
        if isinstance(part, dict | list | tuple | set | frozenset) and id(part) not in seen:
            seen.add(id(part))
            waiting.extend(part)
            if isinstance(part, dict):
                waiting.extend(part.values())
