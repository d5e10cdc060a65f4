"""Calibration counted by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypose.evaluate import evaluate
from raypose.evaluate.calibration import BINS, calibrate
from raypose.structures import ImageResult, People, Poses, Skeleton

SKELETON = Skeleton(names=("a", "b", "c", "d"), sigmas=(0.05,) * 4)
POINTS = ((10, 10), (90, 10), (90, 90), (10, 90))


def test_the_error_is_the_mean_gap_between_confidence_and_what_is_right() -> None:
    # Bins of .05. Three of .92 on average, two right: gap |.92 - 2/3|. One of .11, wrong: gap .11.
    found = calibrate(np.array([0.91, 0.92, 0.93, 0.11]), np.array([True, True, False, False]))
    assert found.error == pytest.approx((3 * (0.92 - 2 / 3) + 0.11) / 4)
    assert (found.count_B[18], found.confidence_B[18], found.right_B[18]) == pytest.approx((3, 0.92, 2 / 3))
    assert found.count_B.sum() == 4
    assert math.isnan(found.right_B[0])


def test_nothing_predicted_has_no_calibration() -> None:
    found = calibrate(np.zeros(0), np.zeros(0, np.bool_))
    assert math.isnan(found.error)
    assert found.count_B.tolist() == [0] * BINS


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1))
def test_the_error_lies_between_zero_and_one_and_does_not_depend_on_the_order(pairs: list[tuple[float, bool]]) -> None:
    confidence, right = np.array([one for one, _ in pairs]), np.array([one for _, one in pairs])
    error = calibrate(confidence, right).error
    assert 0 <= error <= 1
    assert calibrate(confidence[::-1], right[::-1]).error == pytest.approx(error)


def image(score: float, confidence: tuple[float, ...], *, moved_px: float = 0, hidden: bool = False) -> ImageResult:
    """One person in a box of 100 px, the last keypoint moved, and not labelled where it is `hidden`."""
    keypoints_NK3 = np.array([[(x, y, 2) for x, y in POINTS]], np.float32)
    found_NK3 = keypoints_NK3.copy()
    found_NK3[0, :, 2] = confidence
    found_NK3[0, 3, 0] += moved_px
    if hidden:
        keypoints_NK3[0, 3] = 0
    box_N4, zero, no = np.array([(0, 0, 100, 100)], np.float32), np.zeros(1, np.int64), np.array([False])
    people = People(box_N4, keypoints_NK3, zero, np.array([1e4], np.float32), no, no)
    return ImageResult("1", 100, 100, people, Poses(box_N4, np.array([score], np.float32), zero, found_NK3))


def test_people_are_right_at_oks_50_and_keypoints_within_a_tenth_of_the_box() -> None:
    # OKS is 3/4 or more, so the person of confidence .8 is right: |.8 - 1|. Keypoints: three right at .9, the fourth is
    # 11 of 100 px off, wrong at .4: (3 * .1 + .4) / 4.
    metrics = evaluate([image(0.8, (0.9, 0.9, 0.9, 0.4), moved_px=11)], SKELETON, ["person"]).metrics
    assert metrics["person_ece"] == pytest.approx(0.2)
    assert metrics["keypoint_ece"] == pytest.approx((3 * 0.1 + 0.4) / 4)


def test_a_keypoint_that_nobody_labelled_is_wrong() -> None:
    metrics = evaluate([image(0.8, (1.0, 1.0, 1.0, 0.3), hidden=True)], SKELETON, ["person"]).metrics
    assert metrics["keypoint_ece"] == pytest.approx(0.3 / 4)


def test_ignored_people_have_no_part_in_calibration() -> None:
    plain = image(0.8, (0.9,) * 4)
    ignored = dataclasses.replace(plain, people=dataclasses.replace(plain.people, ignore_N=np.array([True])))
    metrics = evaluate([ignored], SKELETON, ["person"]).metrics
    assert math.isnan(metrics["person_ece"])
    assert math.isnan(metrics["keypoint_ece"])
