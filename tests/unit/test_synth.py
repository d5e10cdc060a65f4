"""The synthetic data set: reproducible, correctly labelled, varied."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypose.data.body import random_body
from raypose.data.figure import Part, random_figure
from raypose.data.synth import synthesize
from raypose.errors import DataError
from raypose.structures import COCO_PERSON, Sample

NAMES = COCO_PERSON.names


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return list(synthesize(150, seed=0, size_px=160))


def column(name: str) -> int:
    return NAMES.index(name)


def test_the_same_seed_gives_the_same_bytes_and_labels(samples: list[Sample]) -> None:
    again = list(synthesize(20, seed=0, size_px=160))
    for first, second in zip(samples, again, strict=False):
        assert first.image == second.image
        np.testing.assert_array_equal(first.people.keypoints_NK3, second.people.keypoints_NK3)
        np.testing.assert_array_equal(first.people.area_N, second.people.area_N)


def test_other_seeds_give_other_images() -> None:
    assert next(synthesize(1, seed=1, size_px=160)).image != next(synthesize(1, seed=2, size_px=160)).image


def test_ids_count_up_and_differ(samples: list[Sample]) -> None:
    assert [sample.id for sample in samples[:3]] == ["synth-000000", "synth-000001", "synth-000002"]


def test_images_decode_to_their_stated_size_with_the_long_side_asked_for(samples: list[Sample]) -> None:
    for sample in samples[:40]:
        image = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (sample.height, sample.width, 3)
        assert max(sample.width, sample.height) == 160
    assert len({(sample.width, sample.height) for sample in samples}) >= 3


def test_labels_are_finite_and_labelled_keypoints_lie_inside_the_image(samples: list[Sample]) -> None:
    for sample in samples:
        keypoints_NK3 = sample.people.keypoints_NK3
        assert np.isfinite(keypoints_NK3).all()
        assert np.isin(keypoints_NK3[..., 2], (0, 1, 2)).all()
        labelled = keypoints_NK3[keypoints_NK3[..., 2] > 0]
        assert (labelled[:, :2] >= 0).all()
        assert (labelled[:, :2] < (sample.width, sample.height)).all()
        assert not keypoints_NK3[keypoints_NK3[..., 2] == 0].any()


def test_boxes_are_inside_the_image_and_hold_every_visible_keypoint(samples: list[Sample]) -> None:
    for sample in samples:
        people = sample.people
        assert (people.box_xyxy_N4[:, :2] >= 0).all()
        assert (people.box_xyxy_N4[:, 2:] <= (sample.width, sample.height)).all()
        for box_xyxy, keypoints_K3 in zip(people.box_xyxy_N4, people.keypoints_NK3, strict=True):
            visible_K2 = keypoints_K3[keypoints_K3[:, 2] == 2, :2]
            assert (visible_K2 >= box_xyxy[:2]).all()
            assert (visible_K2 <= box_xyxy[2:]).all()


def test_areas_are_positive_and_no_larger_than_their_boxes(samples: list[Sample]) -> None:
    for sample in samples:
        sides_N2 = sample.people.box_xyxy_N4[:, 2:] - sample.people.box_xyxy_N4[:, :2]
        assert (sample.people.area_N > 0).all()
        assert (sample.people.area_N <= sides_N2.prod(axis=1)).all()


def test_only_people_without_a_visible_keypoint_are_ignored(samples: list[Sample]) -> None:
    for sample in samples:
        shows_N = (sample.people.keypoints_NK3[..., 2] == 2).any(axis=1)
        np.testing.assert_array_equal(sample.people.ignore_N, ~shows_N)


def test_the_set_has_empty_images_crowded_images_and_every_visibility(samples: list[Sample]) -> None:
    counts = {len(sample.people) for sample in samples}
    assert {0, 1, 2, 3} <= counts
    assert max(counts) <= 4
    codes = np.concatenate([sample.people.keypoints_NK3[..., 2].ravel() for sample in samples])
    share = [float((codes == code).mean()) for code in (0, 1, 2)]
    assert share[0] > 0.005
    assert 0.05 < share[1] < 0.4
    assert share[2] > 0.5


def test_most_people_are_large_enough_for_a_small_model(samples: list[Sample]) -> None:
    heights = np.concatenate(
        [(sample.people.box_xyxy_N4[:, 3] - sample.people.box_xyxy_N4[:, 1]) / sample.height for sample in samples]
    )
    assert np.median(heights) > 0.45
    assert (heights > 0.35).mean() > 0.75


def test_a_person_in_front_hides_the_keypoints_behind() -> None:
    behind, free = [], []
    for sample in synthesize(500, seed=3, size_px=160):
        people = sample.people
        for index in range(len(people) - 1):
            x1, y1, x2, y2 = people.box_xyxy_N4[index + 1 :].T
            # The middle of a box is mostly person, its edges are mostly not: hands and feet reach them.
            x1, x2 = x1 * 0.75 + x2 * 0.25, x1 * 0.25 + x2 * 0.75
            x, y, visibility = people.keypoints_NK3[index].T
            covered_K = ((x[:, None] > x1) & (x[:, None] < x2) & (y[:, None] > y1) & (y[:, None] < y2)).any(axis=1)
            behind.extend(visibility[covered_K & (visibility > 0)] == 1)
            free.extend(visibility[~covered_K & (visibility > 0)] == 1)
    assert len(behind) >= 15
    assert np.mean(behind) > 0.5
    assert np.mean(free) < 0.3


def test_the_nose_is_seen_from_the_front_and_hidden_from_behind() -> None:
    checked = {True: 0, False: 0}
    for seed in range(150):
        figure = random_figure(np.random.default_rng(seed))
        facing = figure.body.points["nose_normal"][2]
        if abs(facing) > 0.5:
            checked[facing > 0] += 1
            assert figure.shows(column("nose"), Part.HEAD) == (facing > 0)
    assert min(checked.values()) >= 3


def test_whoever_faces_the_camera_has_the_left_shoulder_on_the_right() -> None:
    for seed in range(60):
        points = random_body(np.random.default_rng(seed)).points
        across = np.subtract(points["left_shoulder"], points["right_shoulder"])
        up = np.subtract(points["neck"], points["waist"])
        toward_camera = -np.cross(across, up)[2]
        if abs(toward_camera) > 0.5 * np.linalg.norm(np.cross(across, up)):
            assert np.sign(toward_camera) == np.sign(points["nose_normal"][2])


def test_a_limb_that_covers_another_hides_its_keypoint() -> None:
    figure = random_figure(np.random.default_rng(0))
    assert figure.shows(column("left_knee"), Part.LEFT_THIGH)
    assert figure.shows(column("left_knee"), Part.LEFT_SHANK)
    assert not figure.shows(column("left_knee"), Part.RIGHT_THIGH)
    assert not figure.shows(column("left_wrist"), Part.TORSO)
    assert not figure.shows(column("left_wrist"), 0)


def test_painting_reports_exactly_the_pixels_of_the_person() -> None:
    canvas = np.full((200, 200, 3), 7, np.uint8)
    figure = random_figure(np.random.default_rng(5))
    left, top, right, bottom = figure.bounds_xyxy
    part_HW = figure.paint(canvas, 120.0, (100 - 60 * (left + right), 100 - 60 * (top + bottom)))
    changed_HW = (canvas != 7).any(axis=2)
    assert set(np.unique(part_HW)) <= {0, *Part}
    assert changed_HW[part_HW > 0].all()
    # Only the anti-aliased edge reaches farther than the map.
    grown_HW = cv2.dilate((part_HW > 0).astype(np.uint8), np.ones((5, 5), np.uint8))
    assert not changed_HW[grown_HW == 0].any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**63), index=st.integers(0, 3), size_px=st.integers(64, 200))
def test_every_seed_and_size_gives_a_valid_sample(seed: int, index: int, size_px: int) -> None:
    sample = list(synthesize(index + 1, seed, size_px))[index]
    assert max(sample.width, sample.height) == size_px
    assert np.isfinite(sample.people.box_xyxy_N4).all()
    assert len(sample.people.area_N) == len(sample.people)


@pytest.mark.parametrize(("count", "seed", "size_px"), [(-1, 0, 160), (1, -1, 160), (1, 0, 63)])
def test_impossible_requests_are_refused(count: int, seed: int, size_px: int) -> None:
    with pytest.raises(DataError, match="synthetic data"):
        list(synthesize(count, seed, size_px))
