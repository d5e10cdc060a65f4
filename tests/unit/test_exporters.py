"""Exports: what comes back through COCO is the same to the last bit, through YOLO all but what it says it lost."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from typer.testing import CliRunner

from raypose.cli.data import app
from raypose.data.build import build_shard_set
from raypose.data.exporters.coco import export_coco
from raypose.data.exporters.yolo import YoloLosses, export_yolo, yolo_rows
from raypose.data.importers.coco import read_coco
from raypose.data.importers.source import source_of
from raypose.data.importers.yolo_txt import read_yolo
from raypose.data.shard_set import ShardSet
from raypose.errors import DataError, StorageError
from raypose.structures import COCO_PERSON, People, Sample, Skeleton
from tests.pictures import picture

KINDS = {"JPEG": ".jpg", "PNG": ".png", "WebP": ".webp", "BMP": ".bmp", "TIFF": ".tiff"}
WIDTH, HEIGHT = 20, 10
PICTURES = {kind: picture(kind, WIDTH, HEIGHT) for kind in KINDS}
NAMES = ("nose", "left_eye", "right_eye", "tail")
ids = st.lists(st.sampled_from(["a", "b", "images", "c.d", "x y", "ä", "labels"]), min_size=1, max_size=3).map("/".join)
anywhere = st.floats(-1000, 1000, width=32)
inside_x, inside_y = st.floats(0, WIDTH, width=32), st.floats(0, HEIGHT, width=32)


@st.composite
def skeletons(draw: st.DrawFn) -> Skeleton:
    names = NAMES[: draw(st.integers(1, 4))]
    pair = st.tuples(st.integers(0, len(names) - 1), st.integers(0, len(names) - 1))
    edges = draw(st.lists(pair.filter(lambda ends: ends[0] != ends[1]), max_size=3)) if len(names) > 1 else []
    flips = draw(st.sampled_from([(), ((1, 2),), ((0, 2),)])) if len(names) > 2 else ()
    sigmas = draw(st.none() | st.lists(st.floats(0.001, 1), min_size=len(names), max_size=len(names)).map(tuple))
    return Skeleton(names, tuple(edges), flips, sigmas)


@st.composite
def crowds_of_people(draw: st.DrawFn, keypoints: int, classes: int, x: st.SearchStrategy[float] = anywhere,
                     y: st.SearchStrategy[float] = anywhere) -> People:  # fmt: skip
    count = draw(st.integers(0, 3))
    column = {"shape": (count,)}
    corner_x = draw(hnp.arrays(np.float32, (count, 2), elements=x))
    corner_y = draw(hnp.arrays(np.float32, (count, 2), elements=y))
    box = np.stack([corner_x.min(1), corner_y.min(1), corner_x.max(1), corner_y.max(1)], axis=1)
    points = np.stack(
        [
            draw(hnp.arrays(np.float32, (count, keypoints), elements=x)),
            draw(hnp.arrays(np.float32, (count, keypoints), elements=y)),
            draw(hnp.arrays(np.float32, (count, keypoints), elements=st.sampled_from([0.0, 1.0, 2.0]))),
        ],
        axis=2,
    )
    points[points[..., 2] == 0] = 0
    crowd = draw(hnp.arrays(np.bool_, **column))
    ignore = draw(hnp.arrays(np.bool_, **column)) | crowd | ~(points[..., 2] > 0).any(axis=1)
    area = draw(hnp.arrays(np.float32, elements=st.floats(0, 1e6, width=32) | st.just(np.nan), **column))
    class_N = draw(hnp.arrays(np.int64, elements=st.integers(0, classes - 1), **column))
    people = People(box, points, class_N, area, ignore, crowd)
    return people.select((box[:, 2:] > box[:, :2]).all(axis=1))


@st.composite
def sets(draw: st.DrawFn, inside: bool = False) -> tuple[list[Sample], Skeleton, tuple[str, ...]]:
    """Samples with a skeleton and classes; the last has somebody to learn from."""
    skeleton, class_names = draw(skeletons()), draw(st.sampled_from([("person",), ("person", "dog", "crème")]))
    where = (inside_x, inside_y) if inside else (anywhere, anywhere)
    count = skeleton.keypoints
    people = [draw(crowds_of_people(count, len(class_names), *where)) for _ in range(draw(st.integers(0, 2)))]
    people.append(somebody(count))
    names = draw(st.lists(ids, min_size=len(people), max_size=len(people), unique=True))
    kinds = [draw(st.sampled_from(sorted(KINDS))) for _ in people]
    samples = [
        Sample(name, PICTURES[kind], WIDTH, HEIGHT, one) for name, kind, one in zip(names, kinds, people, strict=True)
    ]
    return samples, skeleton, class_names


def somebody(keypoints: int) -> People:
    points = np.full((1, keypoints, 3), 2, np.float32)
    points[..., :2] = 2.3
    box = np.array([[1.1, 0.7, 6.9, 9.2]], np.float32)
    return People(box, points, np.zeros(1, np.int64), np.full(1, 7.5, np.float32), *np.zeros((2, 1), np.bool_))


@pytest.fixture
def root() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="raypose-export-"))
    yield folder
    shutil.rmtree(folder)


def built(samples: Iterable[Sample], skeleton: Skeleton, class_names: tuple[str, ...], out: Path) -> ShardSet:
    build_shard_set(source_of(samples, skeleton, class_names), str(out))
    return ShardSet.open(str(out))


def assert_same_people(found: People, expected: People) -> None:
    for field in fields(People):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name), strict=True)


@settings(max_examples=60)
@given(sets())
def test_a_set_comes_back_from_coco_to_the_last_byte(made: tuple[list[Sample], Skeleton, tuple[str, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        before = built(*made, Path(folder, "before"))
        export_coco(before, f"{folder}/coco")
        source = read_coco(f"{folder}/coco/annotations.json", f"{folder}/coco/images")
        build_shard_set(source, f"{folder}/after")
        after = ShardSet.open(f"{folder}/after")
        assert (after.skeleton, after.class_names) == (before.skeleton, before.class_names)
        for found, expected in zip(after, before, strict=True):
            assert replace(found, people=None) == replace(expected, people=None)  # type: ignore[arg-type]
            assert_same_people(found.people, expected.people)
        assert after.manifest == before.manifest, "shards with the same SHA-256"


@settings(max_examples=60)
@given(sets(inside=True))
def test_a_set_comes_back_from_yolo_but_for_what_it_cannot_hold(
    made: tuple[list[Sample], Skeleton, tuple[str, ...]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        before = built(*made, Path(folder, "before"))
        losses = export_yolo(before, f"{folder}/yolo")
        source = read_yolo(f"{folder}/yolo/data.yaml", "train")
        after = {sample.id: sample for sample in source.samples}
        assert source.class_names == before.class_names
        assert source.skeleton.names == before.skeleton.names
        assert source.skeleton.flip_index == before.skeleton.flip_index
        if before.skeleton.sigmas:
            assert source.skeleton.sigmas == before.skeleton.sigmas
        assert after.keys() == {sample.id for sample in before}
        lost = YoloLosses(edges=len(before.skeleton.edges))
        for expected in before:
            found, learnt = after[expected.id], expected.people.select(~expected.people.ignore_N)
            assert (found.image, found.width, found.height) == (expected.image, expected.width, expected.height)
            np.testing.assert_allclose(found.people.box_xyxy_N4, learnt.box_xyxy_N4, rtol=0, atol=1e-5)
            np.testing.assert_allclose(found.people.keypoints_NK3, learnt.keypoints_NK3, rtol=0, atol=1e-5)
            np.testing.assert_array_equal(found.people.class_N, learnt.class_N)
            crowds, ignored = int(expected.people.crowd_N.sum()), int(expected.people.ignore_N.sum())
            areas = int(np.isfinite(learnt.area_N).sum())
            lost += YoloLosses(crowds=crowds, other_ignored=ignored - crowds, areas=areas)
        assert losses == lost


def sample_of(people: People, name: str = "a", image: bytes = PICTURES["JPEG"]) -> Sample:
    return Sample(name, image, WIDTH, HEIGHT, people)


def person(box: list[float], points: list[list[float]]) -> People:
    one = somebody(len(points))
    return replace(
        one, box_xyxy_N4=np.array([box], np.float32), keypoints_NK3=np.array([points], np.float32),
        area_N=np.full(1, np.nan, np.float32),
    )  # fmt: skip


def test_what_lies_outside_of_the_image_is_cut_and_counted() -> None:
    text, losses = yolo_rows(sample_of(person([-2, 2.5, 5, 7.5], [[-1, 3, 2], [5, 5, 1], [0, 0, 0]])))
    assert text == "0 0.125 0.5 0.25 0.5 0 0 0 0.25 0.5 1 0 0 0\n"
    assert losses == YoloLosses(boxes_cut=1, keypoints_outside=1)
    text, losses = yolo_rows(sample_of(person([-5, 2.5, -2, 7.5], [[-3, 3, 2]])))
    assert (text, losses) == ("", YoloLosses(people_outside=1))


@settings(max_examples=100)
@given(crowds_of_people(3, 2))
def test_yolo_rows_stay_between_0_and_1(people: People) -> None:
    text, losses = yolo_rows(sample_of(people))
    rows = [[float(number) for number in line.split()] for line in text.splitlines()]
    assert len(rows) + losses.crowds + losses.other_ignored + losses.people_outside == len(people)
    for (
        _,
        *box,
    ) in rows:
        assert all(0 <= number <= 1 for number in box[:4]) and len(box) == 4 + 9
        assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y, _ in np.reshape(box[4:], (3, 3)))


def test_areas_that_nobody_measured_are_stated_as_estimates(root: Path) -> None:
    samples = [sample_of(person([0, 0, 10, 20], [[1, 2, 2]])), sample_of(somebody(1), "b")]
    export_coco(built(samples, Skeleton(("nose",)), ("person",), root / "set"), str(root / "out"))
    first, second = json.loads((root / "out/annotations.json").read_text())["annotations"]
    assert (first["area"], first["area_is_estimate"]) == (pytest.approx(0.53 * 200), 1)
    assert second["area"] == 7.5 and "area_is_estimate" not in second


def test_ignored_people_are_ignored_by_cocos_evaluation_too(root: Path) -> None:
    ignored = replace(somebody(1), ignore_N=np.ones(1, np.bool_))
    samples = [sample_of(ignored), sample_of(somebody(1), "b")]
    export_coco(built(samples, Skeleton(("nose",)), ("person",), root / "set"), str(root / "out"))
    first, second = json.loads((root / "out/annotations.json").read_text())["annotations"]
    assert (first["num_keypoints"], first["ignore"], second["num_keypoints"]) == (0, 1, 1)


def test_suffixes_follow_the_content(root: Path) -> None:
    samples = [sample_of(somebody(1), f"x.jpg/{kind}", PICTURES[kind]) for kind in KINDS]
    export_coco(built(samples, Skeleton(("nose",)), ("person",), root / "set"), str(root / "out"))
    found = {path.name: path.read_bytes() for path in (root / "out/images/x.jpg").iterdir()}
    assert found == {f"{kind}{suffix}": PICTURES[kind] for kind, suffix in KINDS.items()}


@pytest.mark.parametrize("name", [".hidden", "a/.b/c", "./a", "a//b", "a\\b"])
def test_an_id_that_would_come_back_as_another_is_refused(name: str, root: Path) -> None:
    made = built([sample_of(somebody(1), name)], Skeleton(("nose",)), ("person",), root / "set")
    with pytest.raises(DataError, match="no file can be named after it"):
        export_coco(made, str(root / "out"))
    assert not (root / "out/annotations.json").exists()


def test_a_place_that_is_not_empty_is_left_alone(root: Path) -> None:
    made = built([sample_of(somebody(1))], Skeleton(("nose",)), ("person",), root / "set")
    for export in (export_coco, export_yolo):
        with pytest.raises(StorageError, match=r"set: not empty, it holds manifest\.json"):
            export(made, str(root / "set"))
    assert len(list((root / "set").iterdir())) == 2


def test_nothing_is_exported_into_the_working_directory_of_a_ray_job(root: Path) -> None:
    made = built([sample_of(somebody(1))], Skeleton(("nose",)), ("person",), root / "set")
    job = root / "working_dir_files" / "_ray_pkg_0a1b"
    for export in (export_coco, export_yolo):
        with pytest.raises(StorageError, match=r"^out: .*_ray_pkg_0a1b/yolo lies in the working directory of a Ray"):
            export(made, str(job / "yolo"))
    assert not job.exists()


def test_two_sets_become_two_splits_if_they_are_alike(root: Path) -> None:
    train = built([sample_of(somebody(17))], COCO_PERSON, ("person",), root / "train")
    val = built([sample_of(somebody(17), "b")], COCO_PERSON, ("person",), root / "val")
    assert export_yolo(train, str(root / "out"), val=val).edges == 0, "COCO's are known by their names"
    for split, name in (("train", "a"), ("val", "b")):
        source = read_yolo(root / "out/data.yaml", split)
        assert [sample.id for sample in source.samples] == [name] and source.skeleton == COCO_PERSON
    for skeleton, classes in ((COCO_PERSON, ("dog",)), (replace(COCO_PERSON, flip_pairs=()), ("person",))):
        other = built([sample_of(somebody(17))], skeleton, classes, root / f"other{len(skeleton.flip_pairs)}")
        with pytest.raises(DataError, match=r"one data\.yaml"):
            export_yolo(train, str(root / "unlike"), val=other)


def test_the_commands_say_what_they_wrote_and_lost(root: Path) -> None:
    crowd = replace(somebody(2), ignore_N=np.ones(1, np.bool_), crowd_N=np.ones(1, np.bool_))
    built([sample_of(somebody(2)), sample_of(crowd, "b")], Skeleton(("nose", "tail"), ((0, 1),)), ("x",), root / "set")
    coco = CliRunner().invoke(app, ["export", "coco", str(root / "set"), str(root / "coco")])
    assert coco.exit_code == 0 and "2 images with 2 annotations" in coco.stdout
    yolo = CliRunner().invoke(app, ["export", "yolo", str(root / "set"), str(root / "yolo")])
    for text in ("1 crowds left out", "1 areas of segments", "1 edges", "--val gives others", "2 images"):
        assert text in yolo.stdout
    assert yaml.safe_load((root / "yolo/data.yaml").read_text())["val"] == "images/train"
