"""What label pickles and shard records may hold, and what happens to everything else."""

from __future__ import annotations

import copyreg
import os
import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raypose.data import safe_pickle
from raypose.data.pickle_machine import Limits
from raypose.data.safe_pickle import LABEL_LIMITS, MAX_DEPTH, load_label, load_plain
from raypose.errors import DataError, UnsafePickleError
from tests.hostile_pickles import BROKEN, HOSTILE, array_state, from_registry

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=40)
)
plain_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=5) | st.integers(-(2**63), 2**64 - 1), inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
    ),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(plain_values)
def test_any_plain_value_comes_back_equal(value: Any) -> None:
    assert load_plain(pickle.dumps(value, protocol=5), "x") == value


@settings(max_examples=60, deadline=None)
@given(plain_values, st.sampled_from(PROTOCOLS))
def test_a_label_of_any_protocol_comes_back_equal(value: Any, protocol: int) -> None:
    assert load_label(pickle.dumps(value, protocol), "x") == value


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        dtype=st.sampled_from([">f4", "<f8", "<f2", "<i8", ">i2", "u1", "?", "<U5", "S3"]),
        shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    ),
    st.sampled_from(PROTOCOLS),
    st.booleans(),
)
def test_numpy_arrays_of_every_protocol_and_memory_order_come_back_equal(
    array: np.ndarray, protocol: int, is_transposed: bool
) -> None:
    array = array.T if is_transposed else array
    label = load_label(pickle.dumps({"a": array, "again": [array, array]}, protocol), "x")
    np.testing.assert_array_equal(label["a"], array)  # type: ignore[index]
    np.testing.assert_array_equal(label["again"][1], array)  # type: ignore[index]
    assert label["a"].dtype == array.dtype  # type: ignore[index]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scalars_sets_and_bytearrays_of_every_protocol_come_back_equal(protocol: int) -> None:
    label = [
        np.float32(1.5),
        np.int64(-3),
        np.bool_(True),
        {1, 2},
        frozenset({"a"}),
        bytearray(b"\xff"),
        b"",
        bytearray(),
    ]
    assert load_label(pickle.dumps(label, protocol), "x") == label


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_arrays_that_numpy_1_or_2_pickled_are_read(module: str) -> None:
    content = pickle.dumps(np.arange(6.0).reshape(2, 3), protocol=2)
    content = content.replace(b"numpy._core.multiarray", module.encode() + b".multiarray")
    content = content.replace(b"numpy.core.multiarray", module.encode() + b".multiarray")
    np.testing.assert_array_equal(load_label(content, "x"), np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_label_is_refused_by_name_and_nothing_runs(
    name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, culprit = HOSTILE[name]
    with pytest.raises(UnsafePickleError) as caught:
        load_label(content, "labels/a.pkl")
    assert culprit in str(caught.value) and "labels/a.pkl" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_extension_registry_is_not_used_even_when_its_code_is_known() -> None:
    content = from_registry()
    copyreg.add_extension("posix", "system", 0x1234)
    try:
        with pytest.raises(UnsafePickleError):
            load_label(content, "x")
        with pytest.raises(UnsafePickleError):
            load_plain(content, "x")
    finally:
        copyreg.remove_extension("posix", "system", 0x1234)


@pytest.mark.parametrize(
    "value", [np.zeros(3), np.float32(1), {1, 2}, bytearray(b"a"), frozenset({1}), Fraction(1), os.system, range(3)]
)
def test_a_shard_record_may_not_even_hold_arrays_or_sets(value: Any) -> None:
    with pytest.raises(UnsafePickleError, match=r"shard-0\.pkl"):
        load_plain(pickle.dumps({"a": value}, protocol=5), "shard-0.pkl")


def test_the_hand_written_array_of_the_next_test_is_valid() -> None:
    np.testing.assert_array_equal(load_label(array_state(b"K\x01\x85"), "x"), np.zeros(1))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_label_is_a_data_error_that_names_the_file(name: str) -> None:
    with pytest.raises(DataError, match=r"labels/a\.pkl"):
        load_label(BROKEN[name], "labels/a.pkl")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_never_raises_anything_but_a_data_error(content: bytes) -> None:
    for load in (load_plain, load_label):
        try:
            load(content, "x")
        except DataError as error:
            assert str(error).startswith("x: ")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_or_cut_label_is_plain_data_or_a_data_error(data: st.DataObject) -> None:
    label = [{"keypoints": np.ones((2, 3)), "box": [1.0, 2, 3, 4], "class": 0}]
    content = bytearray(pickle.dumps(label, data.draw(st.sampled_from(PROTOCOLS))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = load_label(cut, "labels/a.pkl")
    except DataError as error:
        assert str(error).startswith("labels/a.pkl: ")
    else:
        assert is_plain(found)


def is_plain(value: Any) -> bool:
    """Whether it is made of nothing but what a label may hold."""
    if isinstance(value, dict):
        return all(is_plain(part) for item in value.items() for part in item)
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_plain, value))
    if isinstance(value, np.ndarray | np.generic):
        return not value.dtype.hasobject
    return value is None or type(value) in (bool, int, float, str, bytes, bytearray)


def test_a_label_that_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(DataError, match="expected at most"):
        load_label(bytes(LABEL_LIMITS.content_bytes + 1), "x")


def test_a_small_file_cannot_make_millions_of_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LABEL_LIMITS.operations <= 200_000
    monkeypatch.setattr(safe_pickle, "LABEL_LIMITS", Limits(content_bytes=10_000, operations=1_000))
    with pytest.raises(DataError, match="opcodes"):
        load_label(b"\x80\x04(" + b"]" * 1_001 + b"l.", "x")


def shared_lists(levels: int, leaf: Any) -> Any:
    """Ten to the power of `levels` leaves, in a few dozen bytes of pickle."""
    value = leaf
    for _ in range(levels):
        value = [value] * 10
    return value


def test_what_unfolds_to_more_than_the_limit_is_refused_however_small_the_file() -> None:
    assert load_label(pickle.dumps(shared_lists(4, 1.0)), "x") == shared_lists(4, 1.0)
    for bomb in (shared_lists(12, 1.0), [np.zeros(100_000)] * 100, shared_lists(3, "x" * 100_000)):
        content = pickle.dumps(bomb)
        assert len(content) < 1 << 20
        with pytest.raises(DataError, match="when unfolded"):
            load_label(content, "x")


def test_values_that_hold_themselves_or_nest_without_end_are_refused() -> None:
    circle: list[Any] = []
    circle.append({"a": [circle]})
    with pytest.raises(DataError, match="hold themselves"):
        load_label(pickle.dumps(circle), "x")
    deep: list[Any] = []
    for _ in range(MAX_DEPTH):
        deep = [deep]
    with pytest.raises(DataError, match="nested more deeply"):
        load_label(pickle.dumps(deep), "x")


@pytest.mark.parametrize("key", [(1, 2), frozenset({1}), ((),) * 3])
def test_keys_are_text_or_numbers_because_others_can_take_for_ever_to_hash(key: Any) -> None:
    with pytest.raises(DataError, match="as a key"):
        load_label(pickle.dumps({key: 1}), "x")
    with pytest.raises(DataError, match="as a key"):
        load_label(pickle.dumps({key}), "x")


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**4000])
def test_integers_of_more_than_64_bits_are_refused(number: int) -> None:
    for load in (load_label, load_plain):
        with pytest.raises(DataError, match="64 bits"):
            load(pickle.dumps([number]), "x")


def test_text_that_no_terminal_or_file_takes_is_refused() -> None:
    lone = "\udc80"
    for load in (load_label, load_plain):
        with pytest.raises(DataError, match="Unicode"):
            load(pickle.dumps([lone]), "x")
    with pytest.raises(DataError, match="Unicode"):
        load_label(pickle.dumps(np.array([lone])), "x")


def test_a_name_with_control_characters_stays_on_its_line() -> None:
    content = b"\x80\x04\x8c\x02os\x8c\x0bsys\x1b[2J\ntem\x93."
    with pytest.raises(UnsafePickleError) as caught:
        load_label(content, "x")
    assert str(caught.value).isprintable() and r"os.sys\x1b[2J" in str(caught.value)
