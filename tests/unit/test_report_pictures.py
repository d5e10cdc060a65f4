"""Which images a report shows, which training images it measures, and how a part of an image is shown larger."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose.engine.pictures import choose
from raypose.engine.training_images import sample_places
from raypose.evaluate import evaluate
from raypose.structures import People, Poses
from raypose.vision.zoom import Zoom
from tests.unit.test_image_scores import RESULTS, SKELETON


def test_best_worst_and_each_fault_have_their_pictures() -> None:
    scores = evaluate(RESULTS, SKELETON, ["person"]).images
    groups = {group.title: [scores.ids[image] for image in group.images] for group in choose(scores, 2)}
    assert groups == {
        "Worst": ["mirrored", "invented"],
        "Best": ["perfect", "invented"],
        "People who were missed": ["missed"],
        "People where nobody is labelled": ["invented"],
        "Inversion: left and right exchanged": ["mirrored"],
    }


def test_no_pictures_are_drawn_where_none_are_wanted() -> None:
    assert choose(evaluate(RESULTS, SKELETON, ["person"]).images, 0) == []


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=30), images=st.integers(0, 300), batch=st.integers(1, 40)
)
def test_training_images_are_different_ones_of_few_shards(sizes: list[int], images: int, batch: int) -> None:
    places = [place for chunk in sample_places(sizes, images=images, batch=batch) for place in chunk]
    assert len(places) == len(set(places)) <= images
    assert all(0 <= place < sum(sizes) for place in places)
    ends = np.cumsum(sizes)
    assert len(set(np.searchsorted(ends, places, side="right").tolist())) <= 4
    if images and max(sizes) == min(sizes):
        assert len(places) == min(images, min(4, len(sizes)) * sizes[0])


def test_people_and_pixels_are_enlarged_alike() -> None:
    image = np.zeros((400, 600, 3), np.uint8)
    image[100:120, 300:320] = 255
    box_xyxy_N4 = np.array([[280, 80, 340, 140]], np.float32)
    keypoints_NK3 = np.array([[[310, 110, 2]]], np.float32)
    zoom = Zoom.on_people(box_xyxy_N4, 600, 400, longest_px=500)
    seen, nobody = zoom.image(image), np.array([False])
    people = zoom.people(
        People(box_xyxy_N4, keypoints_NK3, np.zeros(1, np.int64), np.ones(1, np.float32), nobody, nobody)
    )
    poses = zoom.poses(Poses(box_xyxy_N4, np.ones(1, np.float32), np.zeros(1, np.int64), keypoints_NK3))
    assert max(seen.shape[:2]) == 500
    y_P, x_P = np.nonzero(seen[..., 0] > 127)
    assert people.keypoints_NK3[0, 0, :2] == pytest.approx([x_P.mean() + 0.5, y_P.mean() + 0.5], abs=1)
    assert poses.keypoints_NK3[0, 0].tolist() == [*people.keypoints_NK3[0, 0, :2].tolist(), 2]
    assert poses.box_xyxy_N4.tolist() == people.box_xyxy_N4.tolist()


@given(boxes=st.lists(st.tuples(*[st.floats(-500, 900, width=32) | st.just(float("nan"))] * 4), max_size=3))
def test_any_boxes_leave_something_to_see(boxes: list[tuple[float, ...]]) -> None:
    zoom = Zoom.on_people(np.array(boxes, np.float32).reshape(-1, 4), 60, 40, longest_px=90)
    assert 0 <= zoom.left < zoom.right <= 60
    assert 0 <= zoom.top < zoom.bottom <= 40
    assert max(zoom.image(np.zeros((40, 60, 3), np.uint8)).shape[:2]) == 90
