"""Building a shard set: every sample is checked, and a set appears whole or not at all."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raypose.data.build import MAX_PROBLEMS, build_shard_set
from raypose.data.image_check import image_size
from raypose.data.shard_set import ShardSet
from raypose.data.stats import collect_stats
from raypose.errors import DataError, UnsafePickleError
from raypose.structures import People, Sample, Skeleton

SKELETON = Skeleton(("head", "foot"))


def encoded(width: int = 40, height: int = 30, form: str = "JPEG", orientation: int | None = None) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, exif=exif)
    return buffer.getvalue()


JPEG = encoded()


def one_person(**changes: object) -> People:
    arrays = {
        "box_xyxy_N4": np.array([[1, 1, 20, 20]], np.float32),
        "keypoints_NK3": np.array([[[2, 2, 2], [9, 9, 1]]], np.float32),
        "class_N": np.zeros(1, np.int64),
        "area_N": np.full(1, np.nan, np.float32),
        "ignore_N": np.zeros(1, np.bool_),
        "crowd_N": np.zeros(1, np.bool_),
    }
    return People(**arrays | changes)  # type: ignore[arg-type]


def sample(name: str = "a", image: bytes = JPEG, size: tuple[int, int] = (40, 30), **changes: object) -> Sample:
    return Sample(name, image, *size, one_person(**changes))


def build(samples: object, out: Path, **options: object) -> object:
    return build_shard_set(samples, SKELETON, ("person",), str(out), **options)  # type: ignore[arg-type]


def test_shards_are_closed_when_full_and_progress_hears_of_every_sample(tmp_path: Path) -> None:
    heard: list[int] = []
    build([sample(str(i)) for i in range(10)], tmp_path / "out", shard_bytes=3 * len(JPEG), progress=heard.append)
    opened = ShardSet.open(str(tmp_path / "out"))
    assert heard == list(range(1, 11))
    assert [item.id for item in opened] == [str(i) for i in range(10)]
    assert opened.shard_sizes == (3, 3, 3, 1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        *(f"shard-{i:06d}.pkl" for i in range(4)),
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (sample(image=JPEG[:-200]), "damaged or cut-off"),
        (sample(image=JPEG[: len(JPEG) // 2]), "damaged or cut-off"),
        (sample(image=encoded(form="PNG")[:-500]), "damaged or cut-off"),
        (sample(image=b"no image at all"), "no image"),
        (sample(size=(30, 40)), "image is 40x30 pixels, its labels say 30x40"),
        (sample(box_xyxy_N4=np.array([[5, 5, 5, 9]], np.float32)), "positive width"),
        (sample(box_xyxy_N4=np.array([[1, 1, np.inf, 9]], np.float32)), "finite"),
        (sample(keypoints_NK3=np.array([[[np.nan, 2, 2], [1, 1, 1]]], np.float32)), "finite"),
        (sample(keypoints_NK3=np.array([[[2, 2, 3], [1, 1, 1]]], np.float32)), "visibility"),
        (sample(keypoints_NK3=np.array([[[2, 2, 0.5], [1, 1, 1]]], np.float32)), "visibility"),
        (sample(keypoints_NK3=np.zeros((1, 3, 3), np.float32)), "3 keypoints a person, the skeleton has 2"),
        (sample(keypoints_NK3=np.zeros((1, 2, 3), np.float32)), "not ignored"),
        (sample(class_N=np.array([1])), r"class outside 0\.\.0"),
        (sample(class_N=np.array([-1])), "class outside"),
        (sample(area_N=np.array([-1], np.float32)), "area"),
        (sample(crowd_N=np.array([True])), "crowd"),
        (sample(name=""), "without id"),
    ],
)
def test_a_bad_sample_is_refused_with_its_reason_and_nothing_is_written(
    bad: Sample, message: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match=message):
        build([sample("good"), bad], out)
    assert not out.exists()


def test_problems_are_collected_one_line_each(tmp_path: Path) -> None:
    bad = [sample(f"bad-{i}", size=(1, 1)) for i in range(3)]
    with pytest.raises(DataError) as caught:
        build([bad[0], sample("good"), *bad[1:], sample("good")], tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["bad-0", "bad-1", "bad-2", "good"]
    assert "second sample with this id" in lines[-1]


def test_collecting_stops_after_the_limit(tmp_path: Path) -> None:
    endless = (sample(str(i), size=(1, 1)) for i in range(10**9))
    with pytest.raises(DataError) as caught:
        build(endless, tmp_path / "out")
    assert len(str(caught.value).splitlines()) == MAX_PROBLEMS + 1


def test_a_source_that_fails_on_some_samples_is_read_to_its_end(tmp_path: Path) -> None:
    def read(index: int) -> Sample:
        if index % 2:
            raise DataError(f"label {index} is broken")
        return sample(str(index))

    with pytest.raises(DataError, match="label 1 is broken\nlabel 3 is broken"):
        build(map(read, range(4)), tmp_path / "out")


def test_an_unsafe_label_stops_the_build_at_once(tmp_path: Path) -> None:
    def read(index: int) -> Sample:
        assert index < 1, "read on after an unsafe pickle"
        raise UnsafePickleError("os.system")

    with pytest.raises(UnsafePickleError):
        build(map(read, range(4)), tmp_path / "out")


def test_a_set_without_a_labelled_person_is_refused(tmp_path: Path) -> None:
    nobody = replace(sample(), people=People.empty(2))
    with pytest.raises(DataError, match="labelled keypoint"):
        build([nobody], tmp_path / "out")
    with pytest.raises(DataError, match="labelled keypoint"):
        build([sample(ignore_N=np.array([True]))], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_common_image_formats_are_accepted(form: str, tmp_path: Path) -> None:
    pixels = np.zeros((30, 40, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    build([sample(image=buffer.getvalue())], tmp_path / "out")


def test_size_and_labels_refer_to_the_image_as_exif_turns_it(tmp_path: Path) -> None:
    turned = encoded(40, 30, orientation=6)
    assert image_size(turned, "a") == (30, 40)
    build([sample(image=turned, size=(30, 40))], tmp_path / "out")
    with pytest.raises(DataError, match="EXIF"):
        build([sample(image=turned, size=(40, 30))], tmp_path / "other")


def test_an_existing_set_is_replaced_only_on_demand_and_leaves_no_old_shards(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build([sample(str(i)) for i in range(4)], out, shard_bytes=1)
    with pytest.raises(DataError, match="--overwrite"):
        build([sample("new")], out)
    build([sample("new")], out, overwrite=True)
    assert [item.id for item in ShardSet.open(str(out))] == ["new"]
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "shard-000000.pkl"]


def test_a_failed_rebuild_leaves_the_old_set_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build([sample("old")], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DataError):
        build([sample("new"), sample("bad", size=(1, 1))], out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Sample]:
        yield from (sample(str(i)) for i in range(50))
        raise KeyboardInterrupt

    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        build(interrupted(), tmp_path, shard_bytes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_killed_build_leaves_no_manifest_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f"""
import os, signal
from tests.unit.test_build import build, sample
from pathlib import Path
def samples():
    for i in range(200):
        yield sample(str(i))
    os.kill(os.getpid(), signal.SIGKILL)
build(samples(), Path({str(out)!r}), shard_bytes=1)
"""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    killed = subprocess.run([sys.executable, "-c", script], cwd=root, env=environment, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name[:10] for path in out.iterdir()] == [".building-"]
    with pytest.raises(DataError, match="no shard set"):
        ShardSet.open(str(out))
    build([sample()], out)
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "shard-000000.pkl"]


def test_stats_tell_labelled_ignored_empty_and_crowds_apart(tmp_path: Path) -> None:
    nobody = replace(sample("nobody"), people=People.empty(2))
    empty = sample("empty", keypoints_NK3=np.zeros((1, 2, 3), np.float32), ignore_N=np.array([True]))
    crowd = sample("crowd", ignore_N=np.array([True]), crowd_N=np.array([True]))
    build([sample(), nobody, empty, crowd], tmp_path / "out")
    stats = collect_stats(ShardSet.open(str(tmp_path / "out")))
    assert (stats.images, stats.images_without_people, stats.annotations) == (4, 1, 3)
    assert (stats.labelled_people, stats.ignored, stats.crowds, stats.empty_people) == (1, 2, 1, 1)
    assert stats.people_per_image == {0: 1, 1: 3}
    head, foot = stats.keypoints
    assert (head.unlabelled, head.hidden, head.visible) == (1, 0, 1)
    assert (foot.unlabelled, foot.hidden, foot.visible) == (1, 1, 0)
    assert set(stats.box_size_px.values()) == {19.0}
