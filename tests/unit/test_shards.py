"""Shard files, manifests and shard sets: what is written comes back, and damage is seen."""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from raypose.data import shard as shard_module
from raypose.data import shard_set as shard_set_module
from raypose.data import verify as verify_module
from raypose.data.build import build_shard_set
from raypose.data.build.cut import RECORD_BYTES
from raypose.data.cache import NodeCache
from raypose.data.importers import source_of
from raypose.data.manifest import Counts, Manifest, ShardInfo, read_manifest
from raypose.data.shard import ShardReader, ShardWriter
from raypose.data.shard_set import ShardSet
from raypose.errors import ConfigError, DataError, ShardCorruptError
from raypose.storage import open_store
from raypose.structures import People, Sample, Skeleton
from tests.remote_store import RemoteStore

SKELETON = Skeleton(("head", "left_hand", "right_hand"), edges=((0, 1), (0, 2)), flip_pairs=((1, 2),))


def jpeg(width: int = 32, height: int = 24, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def sample(index: int, people: int = 1) -> Sample:
    rng = np.random.default_rng(index)
    keypoints_NK3 = np.concatenate([rng.uniform(0, 24, (people, 3, 2)), np.full((people, 3, 1), 2)], axis=2)
    return Sample(
        f"image-{index:03d}",
        jpeg(seed=index),
        32,
        24,
        People(
            np.tile(np.array([1, 2, 20, 22], np.float32), (people, 1)),
            keypoints_NK3.astype(np.float32),
            np.zeros(people, np.int64),
            np.full(people, np.nan, np.float32),
            np.zeros(people, np.bool_),
            np.zeros(people, np.bool_),
        ),
    )


def assert_same_sample(found: Sample, expected: Sample) -> None:
    assert (found.id, found.image, found.width, found.height) == (
        expected.id,
        expected.image,
        expected.width,
        expected.height,
    )
    for name in People.__slots__:
        left, right = getattr(found.people, name), getattr(expected.people, name)
        np.testing.assert_array_equal(left, right)
        assert left.dtype == right.dtype, name


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A set of 12 samples, three to a shard."""
    out = tmp_path / "set"
    samples = [sample(index, people=index % 3) for index in range(12)]
    third = 2 * (len(samples[0].image) + RECORD_BYTES) + 1
    build_shard_set(source_of(samples, SKELETON, ("person",)), str(out), shard_bytes=third)
    return out


floats = st.floats(width=32, allow_nan=True, allow_infinity=True)


@st.composite
def any_sample(draw: st.DrawFn) -> Sample:
    count, keypoints = draw(st.integers(0, 4)), draw(st.integers(1, 5))
    return Sample(
        id=draw(st.text("aä/ 7", min_size=1, max_size=10).filter(lambda name: not name.startswith("/"))),
        image=draw(st.binary(min_size=1, max_size=300)),
        width=draw(st.integers(1, 10_000)),
        height=draw(st.integers(1, 10_000)),
        people=People(
            draw(hnp.arrays(np.float32, (count, 4), elements=floats)),
            draw(hnp.arrays(np.float32, (count, keypoints, 3), elements=floats)),
            draw(hnp.arrays(np.int64, count)),
            draw(hnp.arrays(np.float32, count, elements=floats)),
            draw(hnp.arrays(np.bool_, count)),
            draw(hnp.arrays(np.bool_, count)),
        ),
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(any_sample(), max_size=4))
def test_any_samples_come_back_from_a_shard_equal(samples: list[Sample]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s.pkl")
        with ShardWriter(path) as writer:
            for item in samples:
                writer.add(item)
        reader = ShardReader.open(path)
        assert len(reader) == len(samples) == writer.info().samples
        assert (reader.size_bytes, reader.sha256()) == (writer.info().size_bytes, writer.info().sha256)
        for index, item in enumerate(samples):
            assert_same_sample(reader[index], item)


@pytest.fixture(scope="module")
def small_shard(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("shard") / "s.pkl"
    with ShardWriter(path) as writer:
        for index in range(3):
            writer.add(sample(index))
    return path.read_bytes()


def read_all(content: bytes) -> list[Sample]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s.pkl")
        path.write_bytes(content)
        reader = ShardReader.open(path)
        return [reader[index] for index in range(len(reader))]


@settings(max_examples=100, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(small_shard: bytes, place: float, bit: int) -> None:
    damaged = bytearray(small_shard)
    damaged[int(place * len(damaged))] ^= 1 << bit
    with pytest.raises(ShardCorruptError):
        read_all(bytes(damaged))


@settings(max_examples=40, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True))
def test_a_shard_cut_off_anywhere_is_corrupt(small_shard: bytes, place: float) -> None:
    with pytest.raises(ShardCorruptError):
        read_all(small_shard[: int(place * len(small_shard))])


def test_every_bit_of_table_and_footer_is_covered(small_shard: bytes) -> None:
    for place in range(len(small_shard) - 36 - 3 * 16, len(small_shard)):
        damaged = bytearray(small_shard)
        damaged[place] ^= 0x10
        with pytest.raises(ShardCorruptError):
            read_all(bytes(damaged))


def test_a_writer_that_fails_leaves_no_readable_shard(tmp_path: Path) -> None:
    path = tmp_path / "s.pkl"
    with pytest.raises(RuntimeError), ShardWriter(path) as writer:
        writer.add(sample(0))
        raise RuntimeError
    with pytest.raises(ShardCorruptError, match="footer"):
        ShardReader.open(path)


def test_a_record_that_the_table_has_not_is_an_index_error(small_shard: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.pkl").write_bytes(small_shard)
    reader = ShardReader.open(tmp_path / "s.pkl")
    for outside in (-1, 3):
        with pytest.raises(IndexError, match="of 3"):
            reader[outside]


def sealed(content: bytes, entries: list[tuple[int, int]], **changes: int) -> bytes:
    """Records with a table of these offsets and sizes, and a footer that is changed; all checksums are right."""
    crcs = [zlib.crc32(content[offset : offset + size]) for offset, size in entries]
    table = b"".join(struct.pack("<QII", *entry, crc) for entry, crc in zip(entries, crcs, strict=True))
    says = {"version": 1, "records": len(entries), "table": len(content)} | changes
    body = struct.pack("<8sIIQQ", b"RAYPOSE\n", says["version"], zlib.crc32(table), says["records"], says["table"])
    return content + table + body + struct.pack("<I", zlib.crc32(body))


def test_the_shard_that_the_next_test_changes_is_good(tmp_path: Path) -> None:
    (tmp_path / "s.pkl").write_bytes(sealed(b"abcdef", [(0, 2), (2, 4)]))
    assert len(ShardReader.open(tmp_path / "s.pkl")) == 2


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (sealed(b"abcdef", [(0, 2), (2, 4)], version=2), "format version 2, expected 1"),
        (sealed(b"abcdef", [(0, 2), (2, 4)], records=3), "3 records do not fit a table at byte 6"),
        (sealed(b"abcdef", [(0, 2), (2, 4)], records=0), "0 records do not fit"),
        (sealed(b"abcdef", [(0, 2), (2, 4)], table=22), "2 records do not fit a table at byte 22"),
        (sealed(b"abcdef", [(0, 2), (2, 4)], table=1 << 40), "do not fit a table"),
        (sealed(b"abcdef", [(0, 2), (3, 3)]), "without gaps"),
        (sealed(b"abcdef", [(0, 3), (2, 4)]), "without gaps"),
        (sealed(b"abcdef", [(1, 1), (2, 4)]), "without gaps"),
        (sealed(b"abcdef", [(0, 2), (2, 3)]), "without gaps"),
        (sealed(b"abcdef", []), "without gaps"),
    ],
)
def test_a_table_that_does_not_fit_is_corrupt_though_its_checksums_are_right(
    content: bytes, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "s.pkl").write_bytes(content)
    with pytest.raises(ShardCorruptError, match=rf"s\.pkl: .*{complaint}"):
        ShardReader.open(tmp_path / "s.pkl")


def test_what_no_reader_takes_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ShardWriter(tmp_path / "s.pkl") as writer:
        with pytest.raises(DataError, match="a path that leaves its folder"):
            writer.add(replace(sample(0), id="../outside"))
        monkeypatch.setattr(shard_module, "_MAX_RECORD_BYTES", 100)
        with pytest.raises(DataError, match=r"image-000: [\d,]+ bytes, a record has at most 100"):
            writer.add(sample(0))
        monkeypatch.undo()
        writer.add(sample(1))
    reader = ShardReader.open(tmp_path / "s.pkl")
    assert [reader[index].id for index in range(len(reader))] == ["image-001"]


def _shard_with(record: Any, path: Path) -> ShardReader:
    """A shard whose checksums are right and whose one record is not."""
    with ShardWriter(path) as writer:
        content = pickle.dumps(record, 5)
        writer._entries.append((0, len(content), zlib.crc32(content)))
        writer._write(content)
    return ShardReader.open(path)


def good_record() -> dict[str, Any]:
    return {
        "id": "a", "image": b"x", "width": 1, "height": 1, "k": 1, "box": bytes(16), "keypoints": bytes(12),
        "class": bytes(8), "area": bytes(4), "ignore": bytes(1), "crowd": bytes(1),
    }  # fmt: skip


def test_the_record_that_the_next_test_changes_is_good(tmp_path: Path) -> None:
    assert len(_shard_with(good_record(), tmp_path / "s.pkl")[0].people) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"box": bytes(15)}, {"keypoints": bytes(24)}, {"class": bytes(4)}, {"area": "1234"}, {"ignore": None},
        {"crowd": bytes(2)}, {"width": 0}, {"height": -1}, {"height": True}, {"k": 0}, {"k": 1 << 40},
        {"image": b""}, {"image": "text"}, {"id": 7}, {"extra": 1},
    ],
)  # fmt: skip
def test_a_record_whose_fields_do_not_fit_is_corrupt(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ShardCorruptError, match="record 0"):
        _shard_with(good_record() | change, tmp_path / "s.pkl")[0]


@pytest.mark.parametrize("record", [None, [], "text", {}, {"id": "a"}])
def test_a_record_of_another_kind_is_corrupt(record: object, tmp_path: Path) -> None:
    with pytest.raises(ShardCorruptError, match="record 0"):
        _shard_with(record, tmp_path / "s.pkl")[0]


def test_a_set_gives_its_samples_in_order_by_iteration_and_by_place(built: Path) -> None:
    opened = ShardSet.open(str(built))
    assert len(opened) == 12 and sum(opened.shard_sizes) == 12 and len(opened.shard_sizes) > 2
    for place, item in enumerate(opened):
        assert_same_sample(item, sample(place, people=place % 3))
        assert_same_sample(opened.sample(*opened.locate(place)), item)
    for outside in (-1, 12):
        with pytest.raises(IndexError):
            opened.locate(outside)


def test_a_pickled_set_reads_the_same_samples(built: Path) -> None:
    opened = ShardSet.open(str(built))
    first = opened.sample(0, 0)
    assert_same_sample(pickle.loads(pickle.dumps(opened)).sample(0, 0), first)


def test_threads_may_read_while_few_shards_stay_open(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_set_module, "MAX_OPEN_SHARDS", 1)
    opened = ShardSet.open(str(built))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: opened.sample(*opened.locate(place % 12)).id, range(400)))
    assert found == [f"image-{place % 12:03d}" for place in range(400)]
    assert len(opened._readers) == 1


def test_a_folder_without_manifest_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="raypose data build"):
        ShardSet.open(str(tmp_path))
    with pytest.raises(ConfigError):
        ShardSet.open("ftp://host/set")


def test_a_missing_or_exchanged_shard_is_corrupt(built: Path) -> None:
    shards = sorted(built.glob("shard-*.pkl"))
    shards[0].unlink()
    with pytest.raises(ShardCorruptError, match=re.escape(shards[0].name)):
        ShardSet.open(str(built)).sample(0, 0)
    with ShardWriter(shards[0]) as writer:
        writer.add(sample(5))
    with pytest.raises(ShardCorruptError, match="manifest says"):
        ShardSet.open(str(built)).sample(0, 0)


def test_verify_is_content_with_a_good_set(built: Path) -> None:
    assert list(ShardSet.open(str(built)).verify()) == [None] * 12


def test_verify_names_the_damaged_shard_and_record(built: Path) -> None:
    path = sorted(built.glob("shard-*.pkl"))[1]
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)
    faults = [fault for fault in ShardSet.open(str(built)).verify() if fault]
    assert [(fault.shard, fault.record) for fault in faults] == [(path.name, None), (path.name, 0)]
    assert "sha256" in faults[0].reason


def test_verify_finds_the_same_in_several_processes(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "BYTES_A_PROCESS", 1)
    damaged, missing = sorted(built.glob("shard-*.pkl"))[1:3]
    content = bytearray(damaged.read_bytes())
    content[200] ^= 0xFF
    damaged.write_bytes(content)
    missing.unlink()
    opened = ShardSet.open(str(built))
    alone, shared = list(opened.verify()), list(opened.verify(processes=2))
    assert alone == shared
    assert [fault.shard for fault in alone if fault] == [damaged.name, damaged.name, missing.name]


def test_verify_reads_what_is_in_the_store_and_not_the_copy_of_this_node(built: Path, tmp_path: Path) -> None:
    remote = RemoteStore(built, tmp_path / "downloads.log")
    opened = ShardSet(remote, read_manifest(open_store(str(built))), NodeCache(tmp_path / "cache", 1 << 30))
    assert len(list(opened)) == 12 and list(opened.verify()) == [None] * 12
    missing = sorted(built.glob("shard-*.pkl"))[0]
    missing.unlink()
    faults = [fault for fault in opened.verify() if fault]
    assert [(fault.shard, fault.record) for fault in faults] == [(missing.name, None)]
    assert "is missing" in faults[0].reason


def test_verify_finds_an_image_that_does_not_decode(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "shard-000000.pkl") as writer:
        good = sample(0)
        writer.add(good)
        writer.add(Sample("cut", good.image[:-100], 32, 24, good.people))
    manifest = Manifest(SKELETON, ("person",), (writer.info(),), Counts(2, 2))
    faults = list(ShardSet(open_store(str(tmp_path)), manifest).verify())
    assert faults[0] is None and faults[1] is not None and "cut" in faults[1].reason


def test_verify_looks_at_the_numbers_of_labels_too(tmp_path: Path) -> None:
    """A shard and a manifest that agree, but a class that the set does not have, as a foreign tool might write it."""
    good = sample(0)
    foreign = replace(good, people=replace(good.people, class_N=np.array([7])))
    with ShardWriter(tmp_path / "shard-000000.pkl") as writer:
        writer.add(foreign)
    manifest = Manifest(SKELETON, ("person",), (writer.info(),), Counts.of(foreign.people))
    (tmp_path / "manifest.json").write_text(manifest.to_json())
    (fault,) = ShardSet.open(str(tmp_path)).verify()
    assert fault is not None and (fault.record, "a class outside 0..0, found 7" in fault.reason) == (0, True)


def test_a_manifest_comes_back_equal(built: Path) -> None:
    manifest = read_manifest(open_store(str(built)))
    assert Manifest.from_json(manifest.to_json(), "m") == manifest
    assert manifest.counts == Counts(people=12, labelled=12, images_without_people=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "update raypose"),
        ({"version": 0}, "rebuild"),
        ({"version": "1"}, "version is str"),
        ({"samples": 3}, "3 samples"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"class_names": []}, "class names"),
        ({"class_names": "person"}, "class_names is str"),
        ({"skeleton": {"names": []}}, "no keypoint names"),
        ({"skeleton": []}, "skeleton is list"),
        ({"counts": {}}, "lacks"),
        ({"shards": [{"name": "../x", "size_bytes": 1, "samples": 12, "sha256": "0" * 64}]}, "no plain file name"),
        ({"shards": [{"name": "/x", "size_bytes": 1, "samples": 12, "sha256": "0" * 64}]}, "no plain file name"),
        ({"shards": [{"name": "x", "size_bytes": -1, "samples": 12, "sha256": "0" * 64}]}, "in -1 bytes"),
        ({"shards": [{"name": "x", "size_bytes": 1, "samples": True, "sha256": "0" * 64}]}, "samples is bool"),
        ({"shards": [{"name": "x", "size_bytes": 1, "samples": 12, "sha256": "zz"}]}, "hexadecimal"),
        ({"shards": [{"name": "x", "size_bytes": 9, "samples": 6, "sha256": "0" * 64}] * 2}, "twice"),
    ],
)
def test_a_manifest_that_does_not_fit_says_what_is_wrong(change: dict[str, Any], message: str, built: Path) -> None:
    raw = json.loads((built / "manifest.json").read_text()) | change
    with pytest.raises(DataError, match=message) as caught:
        Manifest.from_json(json.dumps(raw), "set/manifest.json")
    assert str(caught.value).startswith("set/manifest.json: ")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"version": 1}'])
def test_what_is_no_manifest_is_a_data_error(text: str) -> None:
    with pytest.raises(DataError):
        Manifest.from_json(text, "m")


def test_shard_names_are_plain_file_names() -> None:
    for name in ("", "..", ".", "a/b", "a\\b", "a\0b", " x"):
        with pytest.raises(DataError):
            ShardInfo(name, 1, 1, "0" * 64)
