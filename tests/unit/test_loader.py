from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from raypose.config.schema import AugmentConfig
from raypose.data.loader import TrainLoader
from raypose.data.manifest import Counts, Manifest, write_manifest
from raypose.data.plan import Plan
from raypose.data.shard import ShardWriter
from raypose.data.shard_set import ShardSet
from raypose.errors import DataError
from raypose.storage.local import LocalStore
from raypose.structures import Batch, People, Sample, Skeleton

SKELETON = Skeleton(names=("left", "right"), flip_pairs=((0, 1),))
EPOCHS = 3
LANES = 4


def sample(number: int, *, damaged: bool = False) -> Sample:
    rng = np.random.default_rng(number)
    width, height = (int(side) for side in rng.integers(60, 300, 2))
    noise = rng.integers(0, 256, (6, 8, 3), np.uint8)
    content = cv2.imencode(".jpg", cv2.resize(noise, (width, height)))[1].tobytes()
    box = np.array([[0.1, 0.2, 0.8, 0.9]], np.float32) * [width, height, width, height]
    keypoints = np.array([[[0.3, 0.3, 2], [0.6, 0.6, 1]]], np.float32) * [width, height, 1]
    people = People(
        box.astype(np.float32),
        keypoints.astype(np.float32),
        np.zeros(1, np.int64),
        np.full(1, np.nan, np.float32),
        np.zeros(1, np.bool_),
        np.zeros(1, np.bool_),
    )
    return Sample(f"picture-{number}", b"damaged" if damaged else content, width, height, people)


def write_shards(folder: Path, samples: Sequence[Sample], per_shard: int = 5) -> ShardSet:
    folder.mkdir(parents=True)
    infos = []
    for number, first in enumerate(range(0, len(samples), per_shard)):
        with ShardWriter(folder / f"shard-{number:06d}.pkl") as writer:
            for item in samples[first : first + per_shard]:
                writer.add(item)
        infos.append(writer.info())
    counts = sum((Counts.of(item.people) for item in samples[1:]), Counts.of(samples[0].people))
    write_manifest(LocalStore(folder), Manifest(SKELETON, ("person",), tuple(infos), counts))
    return ShardSet.open(str(folder))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_shards(tmp_path_factory.mktemp("data") / "shards", [sample(number) for number in range(22)])


def make_loader(shards: ShardSet, lanes: Sequence[int] = range(LANES), **changes: Any) -> TrainLoader:
    plan = Plan(shards.shard_sizes, seed=11, batch=8, lanes=LANES, window=6)
    settings: dict[str, Any] = {
        "augment": AugmentConfig(close_mosaic=1),
        "imgsz": 64,
        "seed": 11,
        "epochs": EPOCHS,
        "start_step": 0,
        "end_step": plan.steps_of(EPOCHS),
    }
    settings.update(changes)
    return TrainLoader(shards, plan, lanes, **settings)


def assert_same(found: Batch, expected: Batch) -> None:
    assert found.ids == expected.ids
    for name in ("image_B3HW", "class_N", "box_cxcywh_N4", "keypoints_NK3", "image_index_N"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_batches_have_the_layout_that_the_model_reads(shards: ShardSet) -> None:
    loader = make_loader(shards)
    steps = list(loader)
    assert len(steps) == len(loader) == 9
    for batch in (batch for step in steps for batch in step):
        assert batch.image_B3HW.shape == (2, 3, 64, 64)
        assert batch.image_B3HW.dtype == np.uint8
        assert batch.box_cxcywh_N4.dtype == batch.keypoints_NK3.dtype == np.float32
        assert batch.class_N.dtype == batch.image_index_N.dtype == np.int64
        assert len(batch.class_N) == len(batch.box_cxcywh_N4) == len(batch.keypoints_NK3) == len(batch.image_index_N)
    assert {name for step in steps for batch in step for name in batch.ids} == {f"picture-{n}" for n in range(22)}


@pytest.mark.parametrize("start_step", [1, 4, 8])
def test_a_restart_at_any_step_yields_exactly_the_remaining_batches(shards: ShardSet, start_step: int) -> None:
    uninterrupted = list(make_loader(shards))[start_step:]
    for found, expected in zip(make_loader(shards, start_step=start_step), uninterrupted, strict=True):
        for lane in range(LANES):
            assert_same(found[lane], expected[lane])


def test_lanes_yield_the_same_batches_however_workers_share_them(shards: ShardSet) -> None:
    together = make_loader(shards)
    apart = [make_loader(shards, lanes) for lanes in ([3], [0, 2], [1])]
    for expected, ((three,), (zero, two), (one,)) in zip(together, zip(*apart, strict=True), strict=True):
        for lane, found in enumerate((zero, one, two, three)):
            assert_same(found, expected[lane])


def test_loader_processes_change_nothing(shards: ShardSet) -> None:
    here = make_loader(shards, end_step=4)
    there = make_loader(shards, end_step=4, loader_workers=2)
    for expected, found in zip(here, there, strict=True):
        for lane in range(LANES):
            assert_same(found[lane], expected[lane])
    assert there.images_read == here.images_read


def test_the_last_epochs_have_no_mosaic(shards: ShardSet) -> None:
    plain = AugmentConfig(mosaic=1, close_mosaic=1, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)
    people = [
        np.bincount(batch.image_index_N, minlength=len(batch)).tolist()
        for step in make_loader(shards, augment=plain)
        for batch in step
    ]
    in_order = [count for counts in people for count in counts]
    images_with_mosaic = 22 * (EPOCHS - 1)
    assert set(in_order[-8:]) == {1}
    assert max(in_order[: images_with_mosaic - 8]) > 1
    never = make_loader(shards, augment=plain.model_copy(update={"close_mosaic": EPOCHS}))
    assert all(len(batch.class_N) == len(batch) for step in never for batch in step)
    assert never.images_read == 9 * 8


def test_an_image_that_does_not_decode_ends_the_run_by_name(tmp_path: Path) -> None:
    samples = [sample(number, damaged=number == 7) for number in range(22)]
    with pytest.raises(DataError, match=r"shard-000001\.pkl, sample 'picture-7': .*max_bad_fraction allows 0"):
        list(make_loader(write_shards(tmp_path / "shards", samples)))


def test_an_error_from_a_loader_process_is_the_same_single_line(tmp_path: Path) -> None:
    samples = [sample(number, damaged=True) for number in range(22)]
    damaged = write_shards(tmp_path / "shards", samples)
    messages = []
    for loader_workers in (0, 1):
        with pytest.raises(DataError) as caught:
            list(make_loader(damaged, loader_workers=loader_workers))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]


def test_tolerated_bad_images_are_counted_and_replaced_alike_after_a_restart(tmp_path: Path) -> None:
    samples = [sample(number, damaged=number % 11 == 7) for number in range(22)]
    damaged = write_shards(tmp_path / "shards", samples)
    loader = make_loader(damaged, max_bad_fraction=0.5)
    uninterrupted = list(loader)
    assert 0 < loader.bad_images < loader.images_read / 2
    used = {name for step in uninterrupted for batch in step for name in batch.ids}
    assert used == {f"picture-{number}" for number in range(22) if number % 11 != 7}
    for found, expected in zip(
        make_loader(damaged, max_bad_fraction=0.5, start_step=5), uninterrupted[5:], strict=True
    ):
        for lane in range(LANES):
            assert_same(found[lane], expected[lane])


def test_more_bad_images_than_allowed_end_the_run(tmp_path: Path) -> None:
    samples = [sample(number, damaged=number % 2 == 0) for number in range(22)]
    with pytest.raises(DataError, match=r"images are bad, data\.max_bad_fraction allows 0\.25"):
        list(make_loader(write_shards(tmp_path / "shards", samples), max_bad_fraction=0.25))


def test_an_image_of_another_size_than_its_labels_is_bad(tmp_path: Path) -> None:
    good = sample(0)
    wrong = Sample("turned", good.image, good.width + 9, good.height, good.people)
    with pytest.raises(DataError, match=rf"'turned': decodes to .*labels are for {good.width + 9}x{good.height}"):
        list(make_loader(write_shards(tmp_path / "shards", [wrong] * 8)))
