from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose.vision.geometry import (
    Letterbox,
    transform_boxes,
    transform_points,
)

LETTERBOXES = st.builds(
    Letterbox.fit,
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.sampled_from([160, 320, 640]),
    square=st.booleans(),
)


@given(LETTERBOXES, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5))
def test_points_come_back_from_the_canvas_to_where_they_were(
    box: Letterbox, relative: list[tuple[float, float]]
) -> None:
    xy = np.array(relative) * [box.width, box.height]
    assert np.abs(box.to_image(box.to_canvas(xy)) - xy).max() < 1e-4


@given(LETTERBOXES)
def test_the_image_lies_centred_inside_its_canvas(box: Letterbox) -> None:
    right = box.canvas_width - box.left - box.scaled_width
    bottom = box.canvas_height - box.top - box.scaled_height
    assert min(box.left, box.top) >= 0
    assert 0 <= right - box.left <= 1
    assert 0 <= bottom - box.top <= 1
    corners = box.to_canvas(np.array([[0, 0], [box.width, box.height]], np.float64))
    assert np.allclose(corners[0], [box.left, box.top])
    assert np.allclose(corners[1] - corners[0], [box.scaled_width, box.scaled_height])


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("size", [(640, 480), (481, 640), (123, 77), (1080, 811), (1, 900), (640, 640)])
def test_images_and_boxes_agree_with_ultralytics(size: tuple[int, int], square: bool) -> None:
    augment = pytest.importorskip("ultralytics.data.augment")
    ops = pytest.importorskip("ultralytics.utils.ops")
    width, height = size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    box = Letterbox.fit(width, height, 320, square=square)
    theirs = augment.LetterBox((320, 320), auto=not square, stride=32)(image=image)
    canvas = box.apply(image)
    assert np.array_equal(canvas, theirs)

    boxes = np.random.default_rng(1).uniform(0, 320, (20, 4)).astype(np.float32)
    expected = ops.scale_boxes(canvas.shape[:2], boxes.copy(), (height, width))
    ours = box.to_image_clipped(boxes.reshape(-1, 2)).reshape(-1, 4)
    assert np.abs(ours - expected).max() < 1e-4


def test_clipped_points_never_leave_the_image() -> None:
    box = Letterbox.fit(200, 100, 320, square=True)
    xy = box.to_image_clipped(np.array([[-5.0, 0.0], [320.0, 320.0]]))
    assert xy.tolist() == [[0.0, 0.0], [200.0, 100.0]]


def test_a_turned_box_is_bounded_by_its_turned_corners() -> None:
    quarter_turn = np.array([[0.0, -1.0, 10.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert transform_boxes(quarter_turn, np.array([[1, 2, 3, 7]], np.float32)).tolist() == [[3, 1, 8, 3]]


def test_a_projective_map_divides_by_depth() -> None:
    matrix = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 1.0]])
    assert transform_points(matrix, np.array([[4, 2]], np.float32)).tolist() == [[2, 1]]
