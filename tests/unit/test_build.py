"""Building a shard set: every sample is checked, and a set appears whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raypose.data.build import MAX_PROBLEMS, LocalProcesses, build_shard_set
from raypose.data.build.cut import RECORD_BYTES, cut_into_shards
from raypose.data.build.runners import in_order
from raypose.data.image_check import image_size
from raypose.data.importers import LabelledSource, SourceImage, source_of
from raypose.data.manifest import Manifest
from raypose.data.shard_set import ShardSet
from raypose.data.stats import collect_stats
from raypose.errors import DataError, StorageError, UnsafePickleError
from raypose.structures import People, Sample, Skeleton
from tests.data_sets import files_in

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


def build(samples: Iterable[Sample], out: Path, **options: Any) -> Manifest:
    return build_shard_set(source_of(samples, SKELETON, ("person",)), str(out), **options)


@dataclass(frozen=True)
class Reader:
    """Reads image number i of a source as the sample `str(i)`, after `read` has looked at it."""

    first: Callable[[int], None]

    def __call__(self, image: SourceImage) -> Sample:
        self.first(image.label)
        return sample(str(image.label))


def source_read_by(first: Callable[[int], None], count: int) -> LabelledSource:
    images = [SourceImage(str(number), len(JPEG), number) for number in range(count)]
    return LabelledSource(SKELETON, ("person",), images, Reader(first))


def of_bytes(images: int) -> int:
    """The shard size at which so many images fill a shard."""
    return images * (len(JPEG) + RECORD_BYTES)


@given(st.lists(st.integers(0, 5000), max_size=40), st.integers(1, 20_000))
def test_every_image_is_in_one_shard_in_order_and_shards_end_when_they_are_full(
    sizes: list[int], shard_bytes: int
) -> None:
    images = [SourceImage(str(number), size, None) for number, size in enumerate(sizes)]
    tasks = cut_into_shards(images, shard_bytes)
    assert [image for task in tasks for image in task.images] == images
    assert [task.number for task in tasks] == list(range(len(tasks)))
    full = [sum(image.size_bytes + RECORD_BYTES for image in task.images) for task in tasks]
    assert all(size >= shard_bytes for size in full[:-1])
    for size, task in zip(full, tasks, strict=True):
        assert size - task.images[-1].size_bytes - RECORD_BYTES < shard_bytes


def test_shards_are_named_by_their_content_and_progress_hears_of_images_and_bytes(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    build(
        [sample(str(i)) for i in range(10)],
        tmp_path / "out",
        shard_bytes=of_bytes(3),
        progress=lambda *done: heard.append(done),
    )
    opened = ShardSet.open(str(tmp_path / "out"))
    assert heard == [(done, done * len(JPEG)) for done in (3, 6, 9, 10)]
    assert [item.id for item in opened] == [str(i) for i in range(10)]
    assert opened.shard_sizes == (3, 3, 3, 1)
    names = [shard.name for shard in opened.manifest.shards]
    assert names == [f"shard-{i:06d}-{shard.sha256[:12]}.pkl" for i, shard in enumerate(opened.manifest.shards)]
    assert sorted(files_in(tmp_path / "out")) == ["manifest.json", *names]


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
        (sample(name=""), "sample id '' has 0 characters"),
        (sample(name="../a"), "a path that leaves its folder"),
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


def test_an_id_is_unique_across_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^b: a second sample with this id; ids must differ$"):
        build([sample(name) for name in "abcb"], tmp_path / "out", shard_bytes=1)
    assert not (tmp_path / "out").exists()


@given(st.permutations(range(12)))
def test_results_come_in_the_order_of_tasks_whichever_is_done_first(done: list[int]) -> None:
    assert list(in_order((index, f"result {index}") for index in done)) == [f"result {index}" for index in range(12)]


READ: list[int] = []


def note_and_break(number: int) -> None:
    READ.append(number)
    raise DataError(f"label {number} is broken")


def test_collecting_stops_after_the_limit(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        build_shard_set(source_read_by(note_and_break, 1000), str(tmp_path / "out"))
    assert len(str(caught.value).splitlines()) == MAX_PROBLEMS + 1
    assert len(READ) < 100


def break_odd(number: int) -> None:
    if number % 2:
        raise DataError(f"label {number} is broken")


@pytest.mark.parametrize("workers", [1, 2])
def test_images_that_cannot_be_read_are_all_told_in_the_order_of_the_set(workers: int, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        build_shard_set(
            source_read_by(break_odd, 20),
            str(tmp_path / "out"),
            shard_bytes=of_bytes(3),
            runner=LocalProcesses(workers),
        )
    assert str(caught.value).splitlines() == [f"label {number} is broken" for number in range(1, 20, 2)]
    assert not (tmp_path / "out").exists()


def be_hostile(number: int) -> None:
    if number == 40:
        raise UnsafePickleError("label 40 asks for os.system")
    if number > 400:
        Path(os.environ["TEST_READ_ON"]).touch()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unsafe_label_stops_the_build_at_once(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_READ_ON", str(tmp_path / "read-on"))
    with pytest.raises(UnsafePickleError, match="label 40"):
        build_shard_set(
            source_read_by(be_hostile, 2000), str(tmp_path / "out"), shard_bytes=1, runner=LocalProcesses(workers)
        )
    assert list(tmp_path.iterdir()) == []


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
    assert len(files_in(out)) == 2


def test_a_failed_rebuild_leaves_the_old_set_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build([sample("old")], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DataError):
        build([sample("new"), sample("bad", size=(1, 1))], out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_set_that_this_version_cannot_read_goes_only_when_the_new_one_is_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build([sample("old")], out)
    manifest = out / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 99'))
    before = files_in(out)
    with pytest.raises(DataError):
        build([sample("new"), sample("bad", size=(1, 1))], out, shard_bytes=1, overwrite=True)
    assert before.items() <= files_in(out).items()
    build([sample("new")], out, overwrite=True)
    assert len(files_in(out)) == 2 and not files_in(out).keys() & before.keys() - {"manifest.json"}


def interrupt_late(number: int) -> None:
    if number == 50:
        raise KeyboardInterrupt


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        build_shard_set(source_read_by(interrupt_late, 100), str(tmp_path), shard_bytes=1)
    assert files_in(tmp_path) == {"note.txt": b"mine"}


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


def test_no_set_is_built_into_the_working_directory_of_a_ray_job(tmp_path: Path) -> None:
    job = tmp_path / "working_dir_files" / "_ray_pkg_0a1b"
    job.mkdir(parents=True)
    with pytest.raises(StorageError, match=r"^out: .*_ray_pkg_0a1b/shards lies in the working directory of a Ray job"):
        build([sample()], job / "shards")
    assert list(job.iterdir()) == []
