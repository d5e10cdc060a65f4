"""`raypose data merge` and `data split`: every image with all it has, on one side, and always the same one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raypose.cli.data import app
from raypose.data.build import build_shard_set
from raypose.data.importers.shard_sets import part, read_shard_sets
from raypose.data.importers.source import source_of
from raypose.data.shard_set import ShardSet
from raypose.data.synth import synthesize
from raypose.errors import DataError
from raypose.structures import COCO_PERSON, Sample, Skeleton
from tests.data_sets import files_in

SAMPLES = list(synthesize(24, seed=4, size_px=64))


def build(samples: Iterable[Sample], out: Path, classes: tuple[str, ...] = ("person",)) -> str:
    build_shard_set(source_of(samples, COCO_PERSON, classes), str(out), shard_bytes=12_000)
    return str(out)


def run(*arguments: object) -> str:
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def test_what_is_parted_and_put_together_again_is_the_same_samples(tmp_path: Path) -> None:
    whole = build(SAMPLES, tmp_path / "whole")
    said = run("split", whole, "--train", tmp_path / "train", "--val", tmp_path / "val", "--share", 0.3, "--workers", 2)
    assert f"wrote {tmp_path / 'val'}" in said
    sides = [{sample.id for sample in ShardSet.open(str(tmp_path / side))} for side in ("train", "val")]
    assert not sides[0] & sides[1]
    assert 1 < len(sides[1]) < 14

    run("merge", tmp_path / "train", tmp_path / "val", "--out", tmp_path / "again", "--workers", 1)
    by_id = sorted(ShardSet.open(str(tmp_path / "again")), key=lambda sample: sample.id)
    build(by_id, tmp_path / "sorted")
    build(sorted(SAMPLES, key=lambda sample: sample.id), tmp_path / "expected")
    assert files_in(tmp_path / "sorted") == files_in(tmp_path / "expected")


def test_an_image_stays_on_its_side_when_the_set_grows(tmp_path: Path) -> None:
    small, large = (
        part(read_shard_sets([ShardSet.open(build(SAMPLES[:count], tmp_path / str(count)))]), 0.3) for count in (12, 24)
    )
    for before, after in zip(small, large, strict=True):
        assert {image.key for image in before.images} <= {image.key for image in after.images}


def test_a_folder_is_kept_together(tmp_path: Path) -> None:
    videos = [replace(sample, id=f"video-{number % 6}/{sample.id}") for number, sample in enumerate(SAMPLES)]
    source = read_shard_sets([ShardSet.open(build(videos, tmp_path / "videos"))])
    sides = [{image.key.partition("/")[0] for image in side.images} for side in part(source, 0.5, by_folder=True)]
    assert not sides[0] & sides[1]
    flat = read_shard_sets([ShardSet.open(build(SAMPLES, tmp_path / "flat"))])
    with pytest.raises(DataError, match=r"a share of 0\.5 of 1 folders leaves one of the two sets empty"):
        part(flat, 0.5, by_folder=True)


def test_sets_that_share_ids_are_told_apart_by_their_names(tmp_path: Path) -> None:
    sets = [build(SAMPLES[:3], tmp_path / name) for name in ("coco/train", "mine/train")]
    with pytest.raises(DataError, match="a second sample with this id"):
        CliRunner().invoke(app, ["merge", *sets, "--out", str(tmp_path / "out")], catch_exceptions=False)
    run("merge", *sets, "--out", tmp_path / "out", "--prefix")
    ids = [sample.id for sample in ShardSet.open(str(tmp_path / "out"))]
    assert ids == [f"{name}/{sample.id}" for name in ("coco/train", "mine/train") for sample in SAMPLES[:3]]


def test_sets_of_other_skeletons_or_classes_are_not_put_together(tmp_path: Path) -> None:
    people, dogs = build(SAMPLES[:2], tmp_path / "people"), build(SAMPLES[:2], tmp_path / "dogs", ("dog",))
    with pytest.raises(DataError, match=r"dogs: classes dog instead of person as in .*people"):
        read_shard_sets([ShardSet.open(people), ShardSet.open(dogs)])
    renamed = Skeleton(tuple(f"point_{number}" for number in range(17)))
    build_shard_set(source_of(SAMPLES[:2], renamed, ("person",)), str(tmp_path / "points"))
    with pytest.raises(DataError, match="points: other names"):
        read_shard_sets([ShardSet.open(people), ShardSet.open(str(tmp_path / "points"))])
