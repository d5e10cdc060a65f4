"""MAT-files of version 5: read as scipy reads them, and never more than that."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from raypose.data.importers import matlab
from raypose.data.importers.matlab import read_mat
from raypose.errors import DataError

names = st.text("abcdefgh", min_size=1, max_size=6)
numbers = st.lists(st.floats(-1e6, 1e6) | st.integers(-1000, 1000), min_size=1, max_size=4)
values = st.recursive(
    numbers | st.text("abc äß", min_size=1, max_size=5),
    lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3),
    max_leaves=8,
)


def saved(variables: dict[str, Any], *, compress: bool = False) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=compress)
    return buffer.getvalue()


def as_read(value: Any) -> Any:
    """What `read_mat` makes of a value that scipy wrote."""
    if isinstance(value, dict):
        return [{key: as_read(item) for key, item in value.items()}]
    return value if isinstance(value, str) else tuple(value)


@given(st.dictionaries(names, values, min_size=1, max_size=3), st.booleans())
def test_what_scipy_writes_is_read_the_same(variables: dict[str, Any], compress: bool) -> None:
    assert read_mat(saved(variables, compress=compress), "x.mat") == {
        name: as_read(value) for name, value in variables.items()
    }


def test_struct_and_cell_arrays_are_lists_and_empty_arrays_are_empty() -> None:
    people = np.zeros((1, 2), [("x", object), ("point", object)])
    people[0, 0]["x"], people[0, 0]["point"] = 1.5, np.zeros((0, 0))
    people[0, 1]["x"], people[0, 1]["point"] = np.uint8([[1, 3], [2, 4]]), "text"
    cells = np.array(["one", 2.0], dtype=object)
    assert read_mat(saved({"people": people, "cells": cells}), "x.mat") == {
        "people": [{"x": (1.5,), "point": ()}, {"x": (1, 2, 3, 4), "point": "text"}],
        "cells": ["one", (2,)],
    }


SAMPLE = {"RELEASE": {"list": [{"x": [1.0, 2.0], "name": "a.jpg"}], "more": {"y": {"z": 3}}, "flag": True}}
PLAIN, COMPRESSED = saved(SAMPLE), saved(SAMPLE, compress=True)


@settings(max_examples=400)
@given(
    st.sampled_from([PLAIN, COMPRESSED]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    st.floats(0, 1),
)
def test_damage_anywhere_is_a_data_error_or_other_data(
    content: bytes, flips: list[tuple[float, int]], kept: float
) -> None:
    damaged = bytearray(content)
    for place, value in flips:
        damaged[int(place * len(damaged))] = value
    damaged = damaged[: int(kept * len(damaged))] if kept < 0.5 else damaged
    try:
        assert isinstance(read_mat(bytes(damaged), "x.mat"), dict)
    except DataError as error:
        assert "x.mat" in str(error) and "\n" not in str(error)


def test_a_count_that_only_the_file_states_takes_no_memory() -> None:
    huge = bytearray(saved({"c": np.array(["a", "b"], dtype=object)}))
    dimensions = huge.index(struct.pack("<IIii", 5, 8, 1, 2)) + 8
    huge[dimensions : dimensions + 8] = struct.pack("<ii", 1 << 30, 1 << 30)
    with pytest.raises(DataError, match=r"arrays in \d+ bytes"):
        read_mat(bytes(huge), "x.mat")


def test_a_small_file_that_unpacks_into_a_large_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matlab, "MAX_BYTES", 1 << 20)
    bomb = zlib.compress(bytes(8 << 20))
    with pytest.raises(DataError, match="larger than 1,048,576 bytes"):
        read_mat(PLAIN[:128] + struct.pack("<II", 15, len(bomb)) + bomb, "x.mat")


def test_arrays_inside_each_other_end_somewhere() -> None:
    deep: Any = {"a": 1}
    for _ in range(40):
        deep = {"a": deep}
    with pytest.raises(DataError, match="inside each other"):
        read_mat(saved({"a": deep}), "x.mat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing"),
        (b"hello world" * 20, "68 65 6c 6c"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM", r"version 7\.3, expected version 5; save it"),
        (b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI", "little-endian"),
        (saved({"z": np.array([1 + 2j])}), "complex"),
        (saved({"s": scipy.sparse.csc_array(np.eye(3))}), "class 5"),
    ],
)
def test_files_of_other_kinds_are_refused_by_name(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_mat(content, "x.mat")
