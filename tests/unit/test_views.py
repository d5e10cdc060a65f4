"""What several looks at one image become: one answer, which no order of views changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose.errors import ConfigError
from raypose.inference.views import Views, merge, unmirror
from raypose.structures import Poses


def poses(*people: tuple[tuple[float, float, float, float], float, int]) -> Poses:
    """A person is a box, a score and a class; its two keypoints are the corners of the box."""
    boxes = np.array([box for box, _, _ in people], np.float32).reshape(-1, 4)
    corners = np.concatenate([boxes.reshape(-1, 2, 2), np.full((len(people), 2, 1), 0.5, np.float32)], axis=2)
    return Poses(
        boxes,
        np.array([score for _, score, _ in people], np.float32),
        np.array([number for _, _, number in people], np.int64),
        corners,
    )


def test_who_is_seen_in_both_views_lies_between_them_nearer_to_the_surer_one() -> None:
    merged = merge([poses(((0, 0, 100, 100), 0.9, 0)), poses(((10, 0, 110, 100), 0.3, 0))], conf=0.001, max_det=10)
    np.testing.assert_allclose(merged.box_xyxy_N4, [[2.5, 0, 102.5, 100]])
    np.testing.assert_allclose(merged.keypoints_NK3[0, :, :2], [[2.5, 0], [102.5, 100]])
    np.testing.assert_allclose(merged.score_N, [0.6])


def test_who_is_seen_in_one_view_of_two_counts_half() -> None:
    merged = merge([poses(((0, 0, 9, 9), 0.8, 0), ((50, 50, 60, 60), 0.7, 0)), poses()], conf=0.001, max_det=10)
    np.testing.assert_allclose(merged.score_N, [0.4, 0.35])


def test_two_people_of_one_view_are_never_merged() -> None:
    crowd = poses(((0, 0, 100, 100), 0.9, 0), ((5, 0, 105, 100), 0.8, 0))
    merged = merge([crowd, crowd], conf=0.001, max_det=10)
    np.testing.assert_allclose(merged.score_N, [0.9, 0.8])
    np.testing.assert_allclose(merged.box_xyxy_N4, crowd.box_xyxy_N4)


def test_classes_are_merged_apart() -> None:
    merged = merge([poses(((0, 0, 9, 9), 0.8, 0)), poses(((0, 0, 9, 9), 0.6, 1))], conf=0.001, max_det=10)
    assert merged.class_N.tolist() == [0, 1]


def test_the_merged_answer_obeys_threshold_and_limit() -> None:
    view = poses(*(((20 * n, 0, 20 * n + 9, 9), 0.1 * (n + 1), 0) for n in range(5)))
    merged = merge([view, poses()], conf=0.1, max_det=2)
    np.testing.assert_allclose(merged.score_N, [0.25, 0.2])


def test_nobody_in_any_view_is_nobody() -> None:
    assert len(merge([poses(), poses()], conf=0.001, max_det=10)) == 0


# View, place, shift, score; equal scores keep the order in which they came, so all differ.
SEEN = st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 8), st.integers(1, 9999))


@given(st.lists(SEEN, max_size=15, unique_by=lambda person: person[3]))
def test_merging_does_not_depend_on_the_order_of_views(seen: list[tuple[int, int, int, int]]) -> None:
    views = [
        poses(
            *(
                ((40 * place + shift, 0, 40 * place + shift + 30, 30), score / 10_000, 0)
                for of_view, place, shift, score in seen
                if of_view == view
            )
        )
        for view in range(3)
    ]
    once, again = merge(views, conf=0.0, max_det=300), merge(views[::-1], conf=0.0, max_det=300)
    np.testing.assert_allclose(once.score_N, again.score_N, rtol=1e-6)
    np.testing.assert_allclose(np.sort(once.box_xyxy_N4, axis=0), np.sort(again.box_xyxy_N4, axis=0), rtol=1e-6)


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 10)), max_size=5))
def test_turned_twice_all_is_where_it_was(places: list[tuple[int, int]]) -> None:
    found = poses(*(((x, 0, x + width, 9), 0.5, 0) for x, width in places))
    there = unmirror(found, 100, (1, 0))
    assert (there.box_xyxy_N4[:, 2] >= there.box_xyxy_N4[:, 0]).all()
    back = unmirror(there, 100, (1, 0))
    np.testing.assert_array_equal(back.box_xyxy_N4, found.box_xyxy_N4)
    np.testing.assert_array_equal(back.keypoints_NK3, found.keypoints_NK3)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ((), r"scales \(none\): give one or more"),
        ((1.0, -0.5), "positive numbers"),
        ((1.0, float("nan")), "positive numbers"),
        ((1.0, 1.01), "mean 640, 640 px"),
    ],
)
def test_scales_that_mean_nothing_new_are_refused(scales: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Views(scales).of(640)


def test_scales_mean_multiples_of_the_stride() -> None:
    assert Views((0.83, 1.0, 1.17)).sizes(640) == (544, 640, 736)
