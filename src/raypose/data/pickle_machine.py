"""The machine under `safe_pickle`: a stack, a memo, and a closed table of what each opcode does with them."""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from raypose.errors import DataError, UnsafePickleError

_NEWEST_PROTOCOL = 5
_INTEGERS = range(-(1 << 63), 1 << 64)
_MARK = object()


@dataclass(frozen=True, slots=True)
class Limits:
    """What one pickle may take. An opcode is one byte and may cost 216 of memory, so bytes alone bound nothing."""

    content_bytes: int
    operations: int


@dataclass(frozen=True, slots=True)
class Builder:
    """A global of the closed table: its name and, where a pickle may call it, what stands in for it."""

    name: str
    call: Callable[..., object] | None


@dataclass(slots=True, eq=False)
class Unbuilt:
    """An array or dtype between its REDUCE and its BUILD opcode; `value` is what it has become."""

    finish: Callable[..., object]
    value: object = None


class MalformedError(Exception):
    """The bytes are not what a pickler writes; becomes a DataError that names the file."""


Step = Callable[["Machine", Any], None]


@dataclass(slots=True)
class Machine:
    """One pickle's stack and memo. `steps` says what it may do, `builders` which globals it may name."""

    where: str
    builders: Mapping[str, Builder]
    steps: Mapping[str, Step]
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, content: bytes, limits: Limits) -> object:
        """The value of the pickle. Nothing of it outlives an error."""
        if len(content) > limits.content_bytes:
            raise DataError(
                f"{self.where}: pickle of {len(content):,} bytes, expected at most {limits.content_bytes:,}"
            )
        try:
            return self._interpret(content, limits.operations)
        except DataError:
            raise
        except MalformedError as error:
            raise self._broken(content, str(error)) from error
        except Exception as error:  # broken bytes can fail in as many ways as there are opcodes
            raise self._broken(content, f"{type(error).__name__}: {error}"[:200].replace("\n", " ")) from error

    def _interpret(self, content: bytes, limit: int) -> object:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(content)):
            if count >= limit:
                raise MalformedError(f"more than {limit:,} opcodes")
            name = opcode.name
            if name in _LITERALS:
                self.stack.append(literal(argument))
            elif name == "STOP":
                if len(self.stack) != 1 or (position or 0) + 1 != len(content):
                    raise MalformedError("it does not end where it stops, with one value")
            elif (step := self.steps.get(name)) is not None:
                step(self, argument)
            else:
                self.refuse(f"opcode {name}" if argument is None else f"opcode {name} ({str(argument)[:80]})")
        return self.pop()

    def refuse(self, asked: str) -> NoReturn:
        """Stop before something that is not data."""
        raise UnsafePickleError(
            f"{self.where}: the pickle asks for {printable(asked)}, expected plain data; it was not loaded and nothing"
            " in it ran; save it again as dicts, lists, numbers and numpy arrays"
        )

    def _broken(self, content: bytes, reason: str) -> DataError:
        return DataError(
            f"{self.where}: not a readable pickle ({len(content):,} bytes): {printable(reason)};"
            " write or fetch the file again"
        )

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise MalformedError("a mark where a value belongs")
        return value

    def pop_to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise MalformedError("no mark on the stack")

    def pop_many(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise MalformedError(f"{type(self.stack[-1]).__name__} on the stack where a {kind.__name__} belongs")
        return self.stack[-1]


def literal(value: Any) -> Any:
    """The value, if what reads it later can print and compare it."""
    if type(value) is int and value not in _INTEGERS:
        raise MalformedError("an integer of more than 64 bits")
    if type(value) is str and not value.isascii():
        check_text(value)
    return value


def check_text(value: str) -> None:
    """Refuse lone surrogates: no file and no terminal takes them."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise MalformedError("text that is no Unicode") from error


def hashable(value: Any) -> Any:
    """The value, if it can be a key. A tuple of tuples that share their parts takes for ever to hash."""
    if value is not None and type(value) not in (str, bytes, int, float, bool) and not isinstance(value, np.generic):
        raise MalformedError(f"{type(value).__name__} as a key, expected text or a number")
    return value


def printable(text: str) -> str:
    """One line that no terminal takes for a command, whatever the file put into it."""
    return "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in text)


def _protocol(machine: Machine, version: int) -> None:
    if version > _NEWEST_PROTOCOL:
        raise MalformedError(f"protocol {version}, expected 0 to {_NEWEST_PROTOCOL}")


def _remember(machine: Machine, index: int | None) -> None:
    if machine.stack[-1] is _MARK:
        raise MalformedError("a mark in the memo")
    machine.memo[len(machine.memo) if index is None else index] = machine.stack[-1]


def _recall(machine: Machine, index: int) -> None:
    value = machine.memo[index]
    if type(value) is Unbuilt and value.value is not None:
        value = value.value
    machine.stack.append(value)


def _append(machine: Machine, _: None) -> None:
    value = machine.pop()
    machine.top(list).append(value)


def _append_many(machine: Machine, _: None) -> None:
    values = machine.pop_to_mark()
    machine.top(list).extend(values)


def _set_item(machine: Machine, _: None) -> None:
    key, value = machine.pop_many(2)
    machine.top(dict)[hashable(key)] = value


def _set_many(machine: Machine, _: None) -> None:
    pairs = machine.pop_to_mark()
    machine.top(dict).update(zip(map(hashable, pairs[::2]), pairs[1::2], strict=True))


def _dict_to_mark(machine: Machine, _: None) -> None:
    pairs = machine.pop_to_mark()
    machine.stack.append(dict(zip(map(hashable, pairs[::2]), pairs[1::2], strict=True)))


def _global(machine: Machine, dotted: str) -> None:
    name = ".".join(dotted.split(" "))
    builder = machine.builders.get(name)
    if builder is None:
        machine.refuse(name[:200])
    machine.stack.append(builder)


def _stack_global(machine: Machine, _: None) -> None:
    module, name = machine.pop_many(2)
    if type(module) is not str or type(name) is not str:
        raise MalformedError("a global whose name is no text")
    _global(machine, f"{module} {name}")


def push(make: Callable[[], object]) -> Step:
    return lambda machine, _: machine.stack.append(make())


def push_from_mark(make: Callable[[list[Any]], object]) -> Step:
    return lambda machine, _: machine.stack.append(make(machine.pop_to_mark()))


def _push_tuple(count: int) -> Step:
    return lambda machine, _: machine.stack.append(tuple(machine.pop_many(count)))


def _nothing(machine: Machine, _: object) -> None:
    """FRAME only announces how far to read ahead."""


_LITERALS = frozenset(
    {
        "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
    }
)  # fmt: skip
"""Opcodes whose decoded argument is the value itself."""

PLAIN_STEPS: dict[str, Step] = {
    "PROTO": _protocol,
    "FRAME": _nothing,
    "NONE": push(lambda: None),
    "NEWTRUE": push(lambda: True),
    "NEWFALSE": push(lambda: False),
    "MARK": push(lambda: _MARK),
    "EMPTY_LIST": push(list),
    "EMPTY_DICT": push(dict),
    "EMPTY_TUPLE": push(tuple),
    "LIST": push_from_mark(list),
    "TUPLE": push_from_mark(tuple),
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
"""What builds builtins, and nothing else."""
