"""The short way through a record agrees with the interpreter, or leaves the pickle to it."""

from __future__ import annotations

import pickle
import pickletools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raypose.data.flat_pickle import flat_dict, load_record
from raypose.data.safe_pickle import load_plain
from raypose.errors import DataError, UnsafePickleError

VALUES = st.text(max_size=300) | st.binary(max_size=300) | st.integers(0, 65_535)
RECORDS = st.dictionaries(st.text(max_size=20), VALUES, min_size=2, max_size=20)


def pickled(value: object) -> bytes:
    return pickletools.optimize(pickle.dumps(value, protocol=5))


def outcome(content: bytes) -> object:
    try:
        return load_plain(content, "a record")
    except DataError as error:
        return type(error), str(error)


@given(RECORDS)
@example({"ignore": b"\0", "crowd": b"\0"})
@example({"image": bytes(70_000), "width": 640})
def test_a_flat_dict_is_read_without_the_interpreter(record: dict[str, object]) -> None:
    try:
        content = pickled(record)
    except UnicodeEncodeError:
        return
    if isinstance(outcome(content), dict):
        assert flat_dict(content) == load_plain(content, "a record") == record


@given(RECORDS, st.data())
def test_whatever_is_damaged_reads_as_the_interpreter_reads_it(record: dict[str, object], data: st.DataObject) -> None:
    content = bytearray(pickled(record))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255) | st.sampled_from(b"}(u.\x8cXCBKMh\x94\x95c\x93R"))
    short = bytes(content[: data.draw(st.integers(0, len(content)))]) if data.draw(st.booleans()) else bytes(content)
    found = flat_dict(short)
    assert found is None or found == outcome(short)


@pytest.mark.parametrize("value", [[], 7, {"a": {"b": 1}}, {"a": [1]}, {"a": 1.5}, {"a": None}, {"a": -1}, {}])
def test_what_is_no_flat_dict_is_left_to_the_interpreter(value: object) -> None:
    assert flat_dict(pickled(value)) is None
    assert load_record(pickled(value), "a record") == value


def test_a_global_is_refused_by_name() -> None:
    with pytest.raises(UnsafePickleError, match=r"a record: .*posix\.system|a record: .*os\.system"):
        load_record(pickle.dumps({"image": __import__("os").system}), "a record")
