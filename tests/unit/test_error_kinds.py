"""Each kind of keypoint error, on people whose keypoints are moved on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from raypose.evaluate import evaluate
from raypose.evaluate.error_kinds import ErrorKind
from raypose.structures import ImageResult, People, Poses, Skeleton

# Two people side by side, of area 10,000: a keypoint that is d pixels off has likeness exp(-d² / (2 · 10000 · .01)).
# So 5 px give .88 (good), 10 px give .61 (jitter), 30 px give .01.
SKELETON = Skeleton(names=("head", "left", "right"), flip_pairs=((1, 2),), sigmas=(0.05, 0.05, 0.05))
FIRST = ((50.0, 10.0), (20.0, 80.0), (80.0, 80.0))
SECOND = tuple((x + 60, y + 5) for x, y in FIRST)


def kinds(first: tuple[tuple[float, float], ...], second: tuple[tuple[float, float], ...]) -> dict[str, ErrorKind]:
    box_xyxy_N4 = np.array([(0, 0, 100, 100), (60, 5, 160, 105)], np.float32)

    def keypoints(*people: tuple[tuple[float, float], ...]) -> np.ndarray:
        return np.array([[(x, y, 2) for x, y in person] for person in people], np.float32)

    nobody = np.zeros(2, np.bool_)
    zeros = np.zeros(2, np.int64)
    people = People(box_xyxy_N4, keypoints(FIRST, SECOND), zeros, np.full(2, 1e4, np.float32), nobody, nobody)
    poses = Poses(box_xyxy_N4, np.array([0.9, 0.8], np.float32), zeros, keypoints(first, second))
    found = evaluate([ImageResult("1", 200, 200, people, poses)], SKELETON, ["person"]).error_kinds
    return {kind.name: kind for kind in found}


def counts(found: dict[str, ErrorKind]) -> dict[str, int]:
    return {name: kind.keypoints for name, kind in found.items() if kind.keypoints}


def test_keypoints_that_are_close_enough_are_no_error_and_cost_nothing() -> None:
    found = kinds(tuple((x + 5, y) for x, y in FIRST), SECOND)
    assert list(found) == ["jitter", "inversion", "swap", "miss"]
    assert counts(found) == {}
    assert all(kind.ap_gain == 0 for kind in found.values())


def test_a_keypoint_somewhat_off_is_a_jitter() -> None:
    found = kinds((FIRST[0], (FIRST[1][0], FIRST[1][1] + 10), FIRST[2]), SECOND)
    assert counts(found) == {"jitter": 1}
    assert found["jitter"].share == pytest.approx(1 / 6)


def test_left_and_right_exchanged_are_two_inversions_that_cost_ap() -> None:
    # OKS of the first person is 1/3, below every threshold; the second person, ranked behind, is right with a precision
    # of 1/2. Recall levels 0 to .50 are reached, 51 of 101: AP is 51/101 · 1/2. Corrected, it is 1.
    found = kinds((FIRST[0], FIRST[2], FIRST[1]), SECOND)
    assert counts(found) == {"inversion": 2}
    assert found["inversion"].ap_gain == pytest.approx(1 - 51 / 101 / 2)


def test_a_keypoint_on_another_person_is_a_swap() -> None:
    assert counts(kinds((FIRST[0], FIRST[1], SECOND[2]), SECOND)) == {"swap": 1}
    assert counts(kinds((SECOND[0], FIRST[1], FIRST[2]), SECOND)) == {"swap": 1}


def test_a_keypoint_on_nothing_is_a_miss() -> None:
    assert counts(kinds(((50.0, 50.0), FIRST[1], FIRST[2]), SECOND)) == {"miss": 1}


def test_a_keypoint_without_mirror_image_is_never_inverted() -> None:
    assert counts(kinds((FIRST[1], FIRST[1], FIRST[2]), SECOND)) == {"miss": 1}
