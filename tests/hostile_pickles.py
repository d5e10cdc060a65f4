"""Pickles that no reader may take: attacks, each with the word that names it, and broken or oversized bytes."""

from __future__ import annotations

import builtins
import copyreg
import ctypes
import functools
import importlib
import io
import marshal
import operator
import os
import pickle
import runpy
import socket
import struct
import subprocess
import types
import webbrowser
from collections import OrderedDict
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

import numpy as np

STOLEN = "stolen"
"""The file that the attacks make when they succeed."""

COMMAND = f"touch {STOLEN}"


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Rebuilds:
    """Pickles as an object with a state, which Python's unpickler would hand to `__setstate__` or `__dict__`."""

    def __reduce__(self) -> Any:
        return types.SimpleNamespace, (), {"x": 1}


def with_persistent_id() -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> str | None:
            return "elsewhere" if value == "secret" else None

    buffer = io.BytesIO()
    Pickler(buffer, 4).dump(["secret"])
    return buffer.getvalue()


def from_registry(code: int = 0x1234) -> bytes:
    copyreg.add_extension("posix", "system", code)
    try:
        return pickle.dumps(Calls(os.system, COMMAND), protocol=4)
    finally:
        copyreg.remove_extension("posix", "system", code)


def array_state(shape: bytes, data: bytes = b"\x00" * 8) -> bytes:
    """An array of eight bytes whose shape is free, in opcodes."""
    return (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01"
        + shape
        + b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8\x89\x88tR"
        + b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89C"
        + bytes([len(data)])
        + data
        + b"tb."
    )


def in_a_label(attack: Any) -> bytes:
    """The attack deep in what looks like a good label."""
    person = {"keypoints": np.ones((17, 3)), "box": [1.0, 2.0, 3.0, 4.0], "class": 0}
    return pickle.dumps([person, {**person, "area": attack}])


def doubled(levels: int) -> bytes:
    """A tuple of two equal tuples, `levels` deep, as the key of a dict: 2 ** levels steps to hash."""
    return b"\x80\x04})" + b"".join(b"\x94h%c\x86" % level for level in range(levels)) + b"Ns."


def shared_lists(levels: int, leaf: Any) -> Any:
    """Ten to the power of `levels` leaves, in a few dozen bytes of pickle."""
    value = leaf
    for _ in range(levels):
        value = [value] * 10
    return value


def circle() -> list[Any]:
    """A list that holds itself, two levels down."""
    outer: list[Any] = []
    outer.append({"a": [outer]})
    return outer


HOSTILE = {
    "os.system": (pickle.dumps(Calls(os.system, COMMAND)), "system"),
    "os.system in protocol 0": (pickle.dumps(Calls(os.system, COMMAND), 0), "system"),
    "os.system in protocol 2": (pickle.dumps(Calls(os.system, COMMAND), 2), "system"),
    "os.system in a good label": (in_a_label(Calls(os.system, COMMAND)), "system"),
    "os.popen": (pickle.dumps(Calls(os.popen, COMMAND)), "os.popen"),
    "os.execvp": (pickle.dumps(Calls(os.execvp, "touch", ["touch", STOLEN])), "execvp"),
    "posix by name": (f"cposix\nsystem\n(S'{COMMAND}'\ntR.".encode(), "posix.system"),
    "builtins.eval": (pickle.dumps(Calls(builtins.eval, f"open({STOLEN!r}, 'w')")), "builtins.eval"),
    "builtins.exec": (pickle.dumps(Calls(builtins.exec, f"open({STOLEN!r}, 'w')")), "builtins.exec"),
    "builtins.open": (pickle.dumps(Calls(builtins.open, STOLEN, "w")), "open"),
    "builtins.__import__": (pickle.dumps(Calls(builtins.__import__, "antigravity")), "builtins.__import__"),
    "protocol 0 eval": (pickle.dumps(Calls(builtins.eval, f"open({STOLEN!r}, 'w')"), 0), "__builtin__.eval"),
    "nested deep": (pickle.dumps([{"a": [({"b": Calls(os.system, COMMAND)},)]}]), "system"),
    "global never called": (pickle.dumps([os.system]), "system"),
    "getattr chain": (pickle.dumps(Calls(getattr, [], "append")), "getattr"),
    "operator.attrgetter": (pickle.dumps(Calls(operator.attrgetter("system"), 1)), "operator.attrgetter"),
    "functools.partial": (pickle.dumps(functools.partial(os.system, COMMAND)), "functools.partial"),
    "subprocess.Popen": (pickle.dumps(Calls(subprocess.Popen, ["touch", STOLEN])), "subprocess.Popen"),
    "importlib": (pickle.dumps(Calls(importlib.import_module, "antigravity")), "importlib.import_module"),
    "runpy": (pickle.dumps(Calls(runpy.run_path, "/dev/stdin")), "runpy.run_path"),
    "ctypes": (pickle.dumps(Calls(ctypes.CDLL, "libc.so.6")), "ctypes.CDLL"),
    "socket": (pickle.dumps(Calls(socket.create_connection, ("127.0.0.1", 9))), "socket.create_connection"),
    "browser": (pickle.dumps(Calls(webbrowser.open, "http://127.0.0.1:9")), "webbrowser.open"),
    "pickle in a pickle": (pickle.dumps(Calls(pickle.loads, pickle.dumps(Calls(os.system, COMMAND)))), "loads"),
    "marshal": (pickle.dumps(Calls(marshal.loads, b"c")), "marshal.loads"),
    "code object": (b"\x80\x04\x8c\x05types\x8c\x08CodeType\x93)R.", "types.CodeType"),
    "dotted through numpy": (b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.", "numpy.dtype.__init__"),
    "numpy's own loader": (pickle.dumps(Calls(np.load, "x")), "load"),
    "numpy's memory map": (pickle.dumps(Calls(np.memmap, STOLEN, "u1", "w+", 0, (8,))), "memmap"),
    "torch's loader": (b"\x80\x04\x8c\x05torch\x8c\x04load\x93\x8c\x01x\x85R.", "torch.load"),
    "memo trick": (b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93)R.", "os.system"),
    "memo overwritten": (b"\x80\x04\x8c\x05numpyq\x00\x8c\x06systemq\x01\x8c\x02osq\x00h\x00h\x01\x93)R.", "os.system"),
    "old instance": (b"(S'x'\nios\nsystem\n.", "STRING"),
    "instance opcode": (b"(ios\nsystem\n.", "os system"),
    "object opcode": (b"(cbuiltins\nset\no.", "OBJ"),
    "new object": (pickle.dumps(PurePosixPath("a")), "pathlib"),
    "new object with keywords": (b"\x80\x04\x8c\x08builtins\x8c\x03set\x93)}\x92.", "NEWOBJ_EX"),
    "object with a state": (pickle.dumps(Rebuilds()), "types.SimpleNamespace"),
    "class instance": (pickle.dumps(Fraction(1, 2)), "fractions.Fraction"),
    "ordered dict": (pickle.dumps(OrderedDict(a=1)), "collections.OrderedDict"),
    "extension registry, one byte": (from_registry(0x12), "EXT1"),
    "extension registry, two bytes": (from_registry(0x1234), "EXT2"),
    "extension registry, four bytes": (from_registry(0x12345678), "EXT4"),
    "persistent id": (with_persistent_id(), "BINPERSID"),
    "text persistent id": (b"Pname\n.", "PERSID"),
    "out-of-band buffer": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "read-only buffer": (b"\x80\x05C\x01x\x98.", "READONLY_BUFFER"),
    "call of data": (b"\x80\x04])R.", "a call of list"),
    "call of ndarray": (b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93)R.", "numpy.ndarray"),
    "state into a builder": (b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93}b.", "inside"),
    "state into a dict": (b"\x80\x04}}b.", "inside"),
    "builder as value": (b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93\x85.", "numpy.ndarray"),
    "half an array": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\nt\x8c\x01btR.",
        "unfinished",
    ),
}
"""Each with what a label's refusal must name."""

BROKEN = {
    "nothing": b"",
    "text": b"hello world",
    "a jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "only stop": b".",
    "no stop": b"\x80\x04]",
    "bytes after the end": pickle.dumps([1]) + b"x",
    "two values": b"\x80\x04]].",
    "cut in the middle": in_a_label(0.5)[:200],
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",
    "huge text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"abc.",
    "huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc.",
    "huge frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"].x",
    "two gigabytes of bytes": b"\x80\x04B\xff\xff\xff\x7fabc.",
    "huge memo index": b"\x80\x04Nr\xff\xff\xff\x7fj\xfe\xff\xff\x7f.",
    "unknown memo": b"\x80\x04h\x07.",
    "unknown protocol": b"\x80\x63N.",
    "unhashable key": b"\x80\x04}]Ns.",
    "odd dict": b"\x80\x04}(Nu.",
    "mark as value": b"\x80\x04(.",
    "empty stack": b"\x80\x04a.",
    "text integer of a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "integer of a megabyte": b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + b".",
    "negative long": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "array larger than its bytes": array_state(b"J\x00\x00\x00\x40J\x00\x00\x00\x40\x86"),
    "array smaller than its bytes": array_state(b"K\x00\x85"),
    "array of negative shape": array_state(b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86"),
    "object array": pickle.dumps(np.array([{}], dtype=object)),
    "structured array": pickle.dumps(np.zeros(2, dtype=[("a", "f4")])),
    "dates": pickle.dumps(np.array(["2026-01-01"], dtype="M8[D]")),
    "lists that unfold to a trillion": pickle.dumps(shared_lists(12, 1.0)),
    "arrays that unfold to gigabytes": pickle.dumps(shared_lists(4, np.zeros(1000))),
    "list that holds itself": pickle.dumps(circle()),
    "key that takes for ever to hash": doubled(60),
    "a million sets": b"\x80\x04(" + b"\x8f" * 1_000_000 + b"l.",
    "a million memo entries": b"\x80\x04N" + b"\x94" * 1_000_000 + b".",
    "a million marks": b"\x80\x04" + b"(" * 1_000_000 + b".",
    "lists nested without end": b"\x80\x04" + b"]" * 90_000 + b"a" * 89_999 + b".",
    "tuples nested without end": b"\x80\x04)" + b"\x85" * 150_000 + b".",
    "lone surrogate": pickle.dumps(["\udc80"]),
}
"""Nothing here asks for code; each must end as a DataError that names the file, in little memory and time."""
