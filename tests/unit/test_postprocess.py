"""Selecting people from head outputs that are written by hand, so that the right answer is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raypose.model import RawPoses, select_poses

CLASSES, KEYPOINTS = 2, 3


def dense(*people: tuple[tuple[float, float, float, float], tuple[float, float]]) -> Tensor:
    """Head output of one image; a person is (cx, cy, w, h) and its score for each class."""
    keypoints = torch.arange(3.0 * KEYPOINTS)
    columns = [
        torch.cat((torch.tensor([*box, *scores]), keypoints + index)) for index, (box, scores) in enumerate(people)
    ]
    return torch.stack(columns, dim=1)[None]


def select(
    output: Tensor, *, conf: float = 0.25, iou: float = 0.5, max_det: int = 300, end2end: bool = False
) -> RawPoses:
    (poses,) = select_poses(
        output, classes=CLASSES, keypoints=KEYPOINTS, end2end=end2end, conf=conf, iou=iou, max_det=max_det
    )
    return poses


def test_a_box_that_overlaps_a_better_one_of_its_class_is_dropped() -> None:
    poses = select(dense(((50, 50, 20, 20), (0.6, 0.1)), ((51, 50, 20, 20), (0.9, 0.1)), ((90, 90, 8, 8), (0.5, 0.2))))
    torch.testing.assert_close(poses.score_N, torch.tensor([0.9, 0.5]))
    torch.testing.assert_close(poses.box_xyxy_N4[0], torch.tensor([41.0, 40.0, 61.0, 60.0]))


def test_boxes_of_different_classes_do_not_suppress_each_other() -> None:
    poses = select(dense(((50, 50, 20, 20), (0.6, 0.1)), ((50, 50, 20, 20), (0.1, 0.9))))
    assert poses.class_N.tolist() == [1, 0]


def test_keypoints_stay_with_their_person_when_order_changes() -> None:
    poses = select(dense(((20, 20, 9, 9), (0.4, 0.0)), ((80, 80, 9, 9), (0.8, 0.0))))
    assert poses.keypoints_NK3.shape == (2, KEYPOINTS, 3)
    assert poses.keypoints_NK3[0].flatten().tolist() == [float(value) for value in range(1, 10)]
    assert poses.keypoints_NK3[1].flatten().tolist() == [float(value) for value in range(9)]


def test_a_score_equal_to_the_threshold_is_not_above_it() -> None:
    assert len(select(dense(((20, 20, 9, 9), (0.5, 0.0))), conf=0.5).score_N) == 0


def test_nobody_found_gives_empty_arrays_of_the_right_shape() -> None:
    poses = select(dense(((20, 20, 9, 9), (0.1, 0.1))))
    assert poses.box_xyxy_N4.shape == (0, 4)
    assert poses.keypoints_NK3.shape == (0, KEYPOINTS, 3)


def test_end2end_rows_pass_unchanged_down_to_the_threshold_and_the_limit() -> None:
    scores = torch.tensor([0.9, 0.8, 0.7, 0.2])
    rows = torch.rand(4, 6 + 3 * KEYPOINTS)
    rows[:, 4], rows[:, 5] = scores, torch.tensor([1.0, 0.0, 1.0, 0.0])
    poses = select(rows[None], end2end=True, max_det=2)
    torch.testing.assert_close(poses.box_xyxy_N4, rows[:2, :4])
    assert poses.class_N.tolist() == [1, 0]
    assert len(select(rows[None], end2end=True).score_N) == 3


def test_an_output_of_another_skeleton_is_refused() -> None:
    with pytest.raises(ValueError, match="has 15 channels, expected 18"):
        select_poses(dense(((1, 1, 1, 1), (1, 1))), classes=2, keypoints=4, end2end=False, conf=0.1, iou=0.5, max_det=1)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0.05, 0.95), st.integers(1, 20))
def test_what_is_kept_is_sorted_confident_limited_and_apart(seed: int, anchors: int, iou: float, max_det: int) -> None:
    from torchvision.ops import box_iou

    output = torch.rand(1, 4 + CLASSES + 3 * KEYPOINTS, anchors, generator=torch.Generator().manual_seed(seed))
    output[:, :4] *= 50
    poses = select(output, conf=0.3, iou=iou, max_det=max_det)
    assert len(poses.score_N) <= max_det
    assert (poses.score_N > 0.3).all()
    assert (poses.score_N.diff() <= 0).all()
    overlap = box_iou(poses.box_xyxy_N4, poses.box_xyxy_N4).triu(diagonal=1)
    same_class = poses.class_N[:, None] == poses.class_N[None]
    assert (overlap[same_class] <= iou + 1e-3).all()  # boxes are moved apart by class, which costs a few digits
