"""Tensors of the Open Inference Protocol v2, as JSON and as its binary extension writes them."""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypose.serve.problem import Problem

_DTYPES: dict[str, Any] = {"UINT8": np.uint8, "INT64": np.int64, "FP32": np.float32}
_DIGITS = 20
_LENGTH_BYTES = 4
"""Of an entry of BYTES, which stand in front of it."""
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a client asks: tensors by name (bytes as a list), parameters, and which outputs it wants as binary."""

    id: str
    inputs: Mapping[str, NDArray[Any] | list[bytes]]
    parameters: Mapping[str, Any]
    outputs: Mapping[str, bool] | None
    """Whether binary, by name; None asks for all."""
    binary: bool
    """For outputs that say nothing themselves."""


def parse_request(body: bytes, header_length: str | None) -> InferRequest:
    """From a body whose first `header_length` bytes are JSON and the rest tensors; Problem where it is none."""
    split = len(body) if header_length is None else _split(header_length, len(body))
    try:
        raw = json.loads(body[:split])
        inputs = _inputs(raw["inputs"], memoryview(body)[split:])
        parameters = dict(raw.get("parameters") or {})
        outputs = raw.get("outputs")
        binary = bool(parameters.get("binary_data_output", False))
        wanted = outputs and {
            str(entry["name"]): bool((entry.get("parameters") or {}).get("binary_data", binary)) for entry in outputs
        }
        return InferRequest(str(raw.get("id", "")), inputs, parameters, wanted or None, binary)
    except Problem:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise Problem("bad_body", f"not a request of the Open Inference Protocol: {error!r:.200}") from error


def _split(header_length: str, size: int) -> int:
    """Where the JSON ends. Python refuses to read numbers of thousands of digits."""
    if header_length.isdecimal() and len(header_length) <= _DIGITS and int(header_length) <= size:
        return int(header_length)
    raise Problem("bad_body", f"Inference-Header-Content-Length {header_length[:_DIGITS]!r} for {size} bytes")


def _inputs(entries: Sequence[Mapping[str, Any]], rest: memoryview) -> dict[str, NDArray[Any] | list[bytes]]:
    found: dict[str, NDArray[Any] | list[bytes]] = {}
    for entry in entries:
        size = (entry.get("parameters") or {}).get("binary_data_size")
        name, shape = str(entry["name"]), [int(side) for side in entry["shape"]]
        if any(side < 0 for side in shape):
            raise Problem("bad_body", f"input {name[:50]!r}: shape {shape}")
        if size is None:
            found[name] = _from_json(name, str(entry["datatype"]), shape, entry["data"])
            continue
        size = int(size)
        if not 0 <= size <= len(rest):
            raise Problem("bad_body", f"input {name[:50]!r}: binary_data_size {size}, there are {len(rest)} bytes")
        found[name] = _from_bytes(name, str(entry["datatype"]), shape, rest[:size])
        rest = rest[size:]
    return found


def _from_json(name: str, kind: str, shape: list[int], data: Any) -> NDArray[Any] | list[bytes]:
    if kind == "BYTES":
        try:
            return [base64.b64decode(text, validate=True) for text in _flat(data)]
        except (binascii.Error, TypeError, ValueError) as error:
            raise Problem("bad_body", f"input {name[:50]!r}: BYTES in JSON are base64 texts") from error
    return np.asarray(data, _dtype(name, kind)).reshape(shape)


def _from_bytes(name: str, kind: str, shape: list[int], data: memoryview) -> NDArray[Any] | list[bytes]:
    if kind != "BYTES":
        dtype = np.dtype(_dtype(name, kind))
        if math.prod(shape) * dtype.itemsize != len(data):
            raise Problem("bad_body", f"input {name[:50]!r}: {len(data)} bytes for shape {shape} of {kind}")
        return np.frombuffer(data, dtype).reshape(shape)
    entries = []
    while data:
        if len(data) < _LENGTH_BYTES:
            raise Problem("bad_body", f"input {name[:50]!r}: {len(data)} bytes after its last entry")
        (length,) = struct.unpack_from("<I", data)
        data = data[_LENGTH_BYTES:]
        if length > len(data):
            raise Problem("bad_body", f"input {name[:50]!r}: an entry of {length} bytes, there are {len(data)}")
        entries.append(bytes(data[:length]))
        data = data[length:]
    return entries


def _dtype(name: str, kind: str) -> Any:
    if kind not in _DTYPES:
        raise Problem("bad_body", f"input {name[:50]!r}: datatype {kind[:20]!r}; BYTES and UINT8 are understood")
    return _DTYPES[kind]


def _flat(data: Any) -> list[Any]:
    return [leaf for entry in data for leaf in (_flat(entry) if isinstance(entry, list) else [entry])]


def encode_response(
    head: Mapping[str, Any], tensors: Mapping[str, NDArray[Any] | list[str]], request: InferRequest
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where tensors follow it."""
    names = tensors if request.outputs is None else request.outputs
    unknown = [name for name in names if name not in tensors]
    if unknown:
        raise Problem("bad_body", f"no output is called {unknown[0][:50]!r}; there are {', '.join(tensors)}")
    outputs, blocks = [], []
    for name in names:
        binary = request.binary if request.outputs is None else request.outputs[name]
        entry, block = _output(name, tensors[name], binary=binary)
        outputs.append(entry)
        blocks.append(block)
    header = json.dumps({**head, "outputs": outputs}, separators=(",", ":")).encode()
    tail = b"".join(blocks)
    return header + tail, len(header) if any("parameters" in entry for entry in outputs) else None


def _output(name: str, tensor: NDArray[Any] | list[str], *, binary: bool) -> tuple[dict[str, Any], bytes]:
    if isinstance(tensor, list):
        kind, shape = "BYTES", [len(tensor)]
        encoded = [text.encode() for text in tensor]
        block = b"".join(struct.pack("<I", len(text)) + text for text in encoded) if binary else b""
        data: Any = tensor
    else:
        kind, shape = _NAMES[tensor.dtype], list(tensor.shape)
        block = np.ascontiguousarray(tensor).tobytes() if binary else b""
        data = [] if binary else tensor.ravel().tolist()
    entry: dict[str, Any] = {"name": name, "datatype": kind, "shape": shape}
    if binary:
        return {**entry, "parameters": {"binary_data_size": len(block)}}, block
    return {**entry, "data": data}, b""
