"""PCK and keypoint errors on cases whose arithmetic fits in a comment."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raypose.evaluate import Evaluation, evaluate
from raypose.structures import ImageResult, People, Poses, Skeleton

# A stick figure in a box of 100 x 200 pixels: the longer side, 200, is the length by which 'box' normalises.
SKELETON = Skeleton(
    names=("head_top", "neck", "left_shoulder", "right_hip", "left_ankle"),
    sigmas=(0.05, 0.05, 0.05, 0.05, 0.05),
)
BOX = (0.0, 0.0, 100.0, 200.0)
POINTS = ((50, 0), (50, 40), (30, 50), (60, 130), (30, 190))
# Head: head_top (50, 0) to neck (50, 40), 40 pixels.
# Torso: left_shoulder (30, 50) to right_hip (60, 130), the root of 30² + 80², 85.44 pixels.


def person(visibility: tuple[int, ...] = (2, 2, 2, 2, 2), ignore: bool = False) -> People:
    keypoints_NK3 = np.array([[(*xy, v) for xy, v in zip(POINTS, visibility, strict=True)]], np.float32)
    return People(
        np.array([BOX], np.float32),
        keypoints_NK3,
        np.zeros(1, np.int64),
        np.array([np.nan], np.float32),
        np.array([ignore]),
        np.array([False]),
    )


def prediction(moves_px: tuple[float, ...], box: tuple[float, ...] = BOX) -> Poses:
    keypoints_NK3 = np.array([[(x + move, y, 1.0) for (x, y), move in zip(POINTS, moves_px, strict=True)]], np.float32)
    return Poses(np.array([box], np.float32), np.array([0.9], np.float32), np.zeros(1, np.int64), keypoints_NK3)


def judge(*results: tuple[People, Poses], skeleton: Skeleton = SKELETON) -> Evaluation:
    images = [ImageResult(str(i), 300, 300, people, poses) for i, (people, poses) in enumerate(results)]
    return evaluate(images, skeleton, ["person"])


def test_box_pck_counts_keypoints_within_a_share_of_the_longer_side() -> None:
    # Offsets 0, 10, 15, 20, 50 px are 0, .05, .075, .10, .25 of 200 px. A distance equal to the limit is right.
    metrics = judge((person(), prediction((0, 10, 15, 20, 50)))).metrics
    assert metrics["pck_box_05"] == pytest.approx(2 / 5)
    assert metrics["pck_box_10"] == pytest.approx(4 / 5)
    assert metrics["pck_box_20"] == pytest.approx(4 / 5)
    assert metrics["keypoint_error_px"] == pytest.approx((0 + 10 + 15 + 20 + 50) / 5)
    assert metrics["keypoint_error_box"] == pytest.approx((0 + 10 + 15 + 20 + 50) / 5 / 200)


def test_auc_is_the_mean_over_thresholds_of_one_to_twenty_percent() -> None:
    # One keypoint off by 9 px = .045 of the box: right at .05, .06, ..., .20 = 16 of 20 thresholds; 4 always right.
    assert judge((person(), prediction((0, 0, 0, 0, 9)))).metrics["pck_auc"] == pytest.approx((4 + 16 / 20) / 5)


def test_torso_and_head_normalise_by_named_keypoints() -> None:
    # PCK@0.2 of the torso allows .2 * 85.44 = 17.09 px; PCKh@0.5 allows .5 * 40 = 20 px.
    metrics = judge((person(), prediction((17.0, 17.2, 19.9, 20.1, 0)))).metrics
    assert metrics["pck_torso_20"] == pytest.approx(2 / 5)
    assert metrics["pck_head_50"] == pytest.approx(4 / 5)


def test_torso_and_head_have_an_auc_up_to_the_threshold_of_their_pck() -> None:
    # 4 px is .1 of the head of 40: right at .10, .11, …, .50, 41 of 50 thresholds. Of the torso of 85.44 it is .0468:
    # right at .05, …, .20, 16 of 20. The other four keypoints are always right.
    metrics = judge((person(), prediction((0, 0, 0, 0, 4)))).metrics
    assert metrics["pck_head_auc"] == pytest.approx((4 + 41 / 50) / 5)
    assert metrics["pck_torso_auc"] == pytest.approx((4 + 16 / 20) / 5)


def test_torso_and_head_follow_the_names_and_not_the_order() -> None:
    order = [4, 2, 0, 3, 1]
    shuffled = Skeleton(names=tuple(SKELETON.names[k] for k in order), sigmas=SKELETON.sigmas)
    people, poses = person(), prediction((17.0, 17.2, 19.9, 20.1, 0))
    turned = (
        People(
            people.box_xyxy_N4, people.keypoints_NK3[:, order], people.class_N, people.area_N, people.ignore_N,
            people.crowd_N,
        ),
        Poses(poses.box_xyxy_N4, poses.score_N, poses.class_N, poses.keypoints_NK3[:, order]),
    )  # fmt: skip
    expected, found = judge((people, poses)).metrics, judge(turned, skeleton=shuffled).metrics
    assert found["pck_torso_20"] == expected["pck_torso_20"] == pytest.approx(2 / 5)
    assert found["pck_head_50"] == expected["pck_head_50"] == pytest.approx(4 / 5)


def test_people_whose_torso_is_not_labelled_are_left_out_of_torso_pck_only() -> None:
    hidden_hip = person(visibility=(2, 2, 2, 0, 2))
    metrics = judge((person(), prediction((0,) * 5)), (hidden_hip, prediction((90,) * 5))).metrics
    assert metrics["pck_torso_20"] == 1.0
    assert metrics["pck_box_10"] == pytest.approx(5 / 9)


def test_skeletons_without_head_and_torso_have_no_such_metric() -> None:
    skeleton = Skeleton(names=("a", "b", "c", "d", "e"), sigmas=SKELETON.sigmas)
    metrics = judge((person(), prediction((0,) * 5)), skeleton=skeleton).metrics
    assert "pck_torso_20" not in metrics
    assert "pck_head_50" not in metrics
    assert "pck_head_auc" not in metrics


def test_rows_hold_visible_and_occluded_keypoints_apart() -> None:
    # head_top: visible and off by 10 px in one person, occluded and off by 30 px (.15 of 200) in the other.
    first = (person(), prediction((10, 0, 0, 0, 0)))
    second = (person(visibility=(1, 2, 2, 2, 0)), prediction((30, 0, 0, 0, 0)))
    rows = {row.name: row for row in judge(first, second).per_keypoint}
    head = rows["head_top"]
    assert (head.labelled, head.visible, head.occluded, head.found) == (2, 1, 1, 2)
    assert (head.pck, head.pck_visible, head.pck_occluded) == (0.5, 1.0, 0.0)
    assert (head.error_px, head.error_visible_px, head.error_occluded_px) == pytest.approx((20, 10, 30))
    assert (head.error_box, head.error_visible_box, head.error_occluded_box) == pytest.approx((0.1, 0.05, 0.15))
    assert rows["left_ankle"].labelled == 1
    assert math.isnan(rows["left_ankle"].pck_occluded)


def test_missed_people_lower_pck_but_have_no_error() -> None:
    # The second prediction overlaps its person's box by 50 / 150: an IoU of 1/3 answers for nobody.
    elsewhere = prediction((5,) * 5, box=(50.0, 0.0, 150.0, 200.0))
    evaluation = judge((person(), prediction((5,) * 5)), (person(), elsewhere))
    assert evaluation.metrics["pck_box_10"] == 0.5
    assert evaluation.metrics["keypoint_error_px"] == pytest.approx(5)
    assert evaluation.per_keypoint[0].found == 1


def test_the_more_confident_of_two_predictions_answers_for_a_person() -> None:
    sure, unsure = prediction((20, 0, 0, 0, 0)), prediction((0,) * 5)
    both = Poses(
        np.concatenate([sure.box_xyxy_N4, unsure.box_xyxy_N4]),
        np.array([0.9, 0.3], np.float32),
        np.zeros(2, np.int64),
        np.concatenate([sure.keypoints_NK3, unsure.keypoints_NK3]),
    )
    assert judge((person(), both)).metrics["keypoint_error_px"] == pytest.approx(20 / 5)


def test_ignored_people_are_in_no_count() -> None:
    evaluation = judge((person(ignore=True), prediction((50,) * 5)), (person(), prediction((0,) * 5)))
    assert evaluation.metrics["pck_box_05"] == 1.0
    assert evaluation.metrics["people"] == 1
    assert evaluation.per_keypoint[0].labelled == 1
