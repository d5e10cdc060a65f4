"""MixUp and CutMix: what is seen where, and whose people are targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypose.config import load_config
from raypose.config.schema import AugmentConfig
from raypose.data.loader import TrainLoader
from raypose.data.plan import Plan
from raypose.data.shard_set import ShardSet
from raypose.errors import ConfigError
from raypose.structures import Batch, People
from raypose.vision.augment import Design, blended, covered, design_training_image, draw_design
from raypose.vision.canvas import Labelled
from raypose.vision.targets import Targets, targets_of
from tests.data_sets import build_synthetic

SIDE = 128
GEOMETRY_ONLY = AugmentConfig(hsv_h=0, hsv_s=0, hsv_v=0)
FLIP_INDEX = (1, 0)


def photograph(seed: int, persons: int) -> Labelled:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (96, 120, 3), np.uint8)
    low_N2 = rng.uniform(0, 70, (persons, 2))
    box_N4 = np.concatenate([low_N2, low_N2 + rng.uniform(12, 30, (persons, 2))], axis=1)
    keypoints_NK3 = np.full((persons, 2, 3), 2.0)
    keypoints_NK3[:, 0, :2], keypoints_NK3[:, 1, :2] = box_N4[:, :2] + 2, box_N4[:, 2:] - 2
    people = People(
        box_N4.astype(np.float32), keypoints_NK3.astype(np.float32), np.zeros(persons, np.int64),
        np.full(persons, np.nan, np.float32), np.zeros(persons, bool), np.zeros(persons, bool),
    )  # fmt: skip
    return Labelled(image, people, 120, 96)


def design(seed: int, persons: int = 2, options: AugmentConfig = GEOMETRY_ONLY) -> Design:
    return design_training_image(
        photograph(seed, persons), [], options, imgsz=SIDE, rng=np.random.default_rng(1000 + seed)
    )


def targets(layouts: Sequence[object]) -> Targets:
    return targets_of(layouts, SIDE, FLIP_INDEX)  # type: ignore[arg-type]


def unflipped(one: Design) -> Design:
    return one._replace(layout=one.layout._replace(mirrored=False, upside_down=False))


@pytest.mark.parametrize("seed", range(6))
def test_mixup_shows_both_images_and_everybody_in_them(seed: int) -> None:
    first, other = unflipped(design(seed)), unflipped(design(seed + 50))
    mixed = blended(first, other, np.random.default_rng(seed))
    weight = mixed.mixes[0].weight
    assert weight is not None and 0.2 < weight < 0.8
    expected = weight * draw_design(first, SIDE) + (1 - weight) * draw_design(other, SIDE)
    assert np.abs(draw_design(mixed, SIDE) - expected).max() <= 1
    found, alone = targets(mixed.layouts), [targets([one.layout]) for one in (first, other)]
    assert np.array_equal(found.box_cxcywh_N4, np.concatenate([one.box_cxcywh_N4 for one in alone]))


def test_an_image_is_flipped_as_a_whole_with_all_that_is_mixed_in() -> None:
    first, other = unflipped(design(1)), unflipped(design(2))
    mirrored = first._replace(layout=first.layout._replace(mirrored=True))
    straight, turned = (blended(one, other, np.random.default_rng(0)) for one in (first, mirrored))
    assert np.array_equal(draw_design(turned, SIDE), cv2.flip(draw_design(straight, SIDE), 1))
    before, after = targets(straight.layouts), targets(turned.layouts)
    assert np.allclose(after.box_cxcywh_N4[:, 0], 1 - before.box_cxcywh_N4[:, 0])
    assert np.allclose(after.keypoints_NK3[:, ::-1, 0], 1 - before.keypoints_NK3[..., 0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_cutmix_covers_nobody_and_brings_whom_it_shows(seed: int) -> None:
    first, other = unflipped(design(seed, 1)), unflipped(design(seed + 20_000, 3))
    mixed = covered(first, other, SIDE, np.random.default_rng(seed))
    own = targets([first.layout])
    if not mixed.mixes:
        assert np.array_equal(draw_design(mixed, SIDE), draw_design(first, SIDE))
        return
    area = mixed.mixes[0].area
    assert area is not None
    image, part = draw_design(mixed, SIDE), np.s_[area.top : area.bottom, area.left : area.right]
    outside = np.ones((SIDE, SIDE), bool)
    outside[part] = False
    assert np.array_equal(image[part], draw_design(other, SIDE)[part])
    assert np.array_equal(image[outside], draw_design(first, SIDE)[outside])

    found = targets(mixed.layouts)
    count = len(own.class_N)
    assert np.array_equal(found.box_cxcywh_N4[:count], own.box_cxcywh_N4)
    assert len(found.class_N) > count  # somebody came along
    low = found.box_cxcywh_N4[count:, :2] - found.box_cxcywh_N4[count:, 2:] / 2
    high = low + found.box_cxcywh_N4[count:, 2:]
    corners = np.array(area) / SIDE
    assert (low >= corners[:2] - 1e-6).all() and (high <= corners[2:] + 1e-6).all()
    seen = found.keypoints_NK3[count:][found.keypoints_NK3[count:, :, 2] > 0]
    assert ((seen[:, :2] >= corners[:2] - 1e-6) & (seen[:, :2] <= corners[2:] + 1e-6)).all()


def test_batches_are_the_same_whoever_makes_them_and_close_mosaic_ends_the_mixing(tmp_path: Path) -> None:
    shards = ShardSet.open(str(build_synthetic(tmp_path, train=24, val=2) / "train"))
    plan = Plan(shards.shard_sizes, seed=5, batch=8, lanes=1, window=24)

    def batches(augment: AugmentConfig, workers: int = 0) -> list[Batch]:
        loader = TrainLoader(
            shards, plan, [0], augment, imgsz=64, seed=5, epochs=2, start_step=0, end_step=plan.steps_of(2),
            loader_workers=workers, kind="threads",
        )  # fmt: skip
        return [batch for (batch,) in loader if isinstance(batch, Batch)]

    mixing = AugmentConfig(mixup=0.7, cutmix=0.7, close_mosaic=1)
    mixed, plain = batches(mixing), batches(AugmentConfig(close_mosaic=1))
    assert all(
        np.array_equal(one.image_B3HW, other.image_B3HW) and np.array_equal(one.keypoints_NK3, other.keypoints_NK3)
        for one, other in zip(mixed, batches(mixing, workers=2), strict=True)
    )
    differ = [not np.array_equal(a.image_B3HW, b.image_B3HW) for a, b in zip(mixed, plain, strict=True)]
    assert differ == [True] * 3 + [False] * 3
    people = [len(batch.class_N) for batch in mixed]
    assert sum(people[:3]) > sum(len(batch.class_N) for batch in plain[:3])
    assert all((np.diff(batch.image_index_N) >= 0).all() for batch in mixed)


def test_a_device_that_does_not_mix_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"train\.device_augment draws no augment\.mixup"):
        load_config(None, ["data.train=a", "data.val=b", "train.device_augment=true", "augment.mixup=0.5"])
