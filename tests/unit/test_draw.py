"""Pictures: any skeleton, any size, never on the caller's image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypose.errors import DataError
from raypose.structures import COCO_PERSON, FloatArray, ImageArray, People, Poses, Skeleton
from raypose.vision.draw import contact_sheet, draw_people, draw_poses, encode_jpeg, encode_png, side_by_side
from raypose.vision.part_colours import part_colours

TWO_POINTS = Skeleton(names=("left_hand", "right_hand"), edges=((0, 1),), flip_pairs=((0, 1),))


def grey(height: int = 100, width: int = 100) -> ImageArray:
    return np.full((height, width, 3), 128, np.uint8)


def people_of(keypoints_K3: object, box: object = (10, 10, 90, 90), *, ignore: bool = False) -> People:
    keypoints_NK3 = np.asarray([keypoints_K3], np.float32)
    return People(
        np.asarray([box], np.float32),
        keypoints_NK3,
        np.zeros(1, np.int64),
        np.full(1, np.nan, np.float32),
        np.array([ignore]),
        np.zeros(1, np.bool_),
    )


def poses_of(keypoints_K3: object, score: float = 0.9, box: object = (10, 10, 90, 90)) -> Poses:
    keypoints_NK3 = np.asarray([keypoints_K3], np.float32)
    return Poses(np.asarray([box], np.float32), np.array([score], np.float32), np.zeros(1, np.int64), keypoints_NK3)


def changed(image: ImageArray) -> np.ndarray:
    return (image != 128).any(axis=2)


def dot(image: ImageArray, x: int, y: int) -> FloatArray:
    return image[y - 1 : y + 1, x - 1 : x + 1].reshape(-1, 3).mean(axis=0)


def test_drawing_leaves_the_input_untouched() -> None:
    image = grey()
    draw_people(image, people_of([(30, 30, 2), (70, 30, 1)]), TWO_POINTS, keypoint_text="names")
    draw_poses(image, poses_of([(30, 30, 1), (70, 30, 1)]), TWO_POINTS, keypoint_text="numbers")
    side_by_side(image, image, ("a", "b"))
    contact_sheet([(image, "a")], columns=1, tile_px=50)
    assert not changed(image).any()


def test_nobody_leaves_the_picture_as_it_is() -> None:
    assert not changed(draw_people(grey(), People.empty(17), COCO_PERSON)).any()


def test_left_and_right_are_told_apart_by_colour() -> None:
    drawn = draw_people(grey(400, 400), people_of([(120, 200, 2), (280, 200, 2)], (20, 20, 380, 380)), TWO_POINTS)
    left, right = dot(drawn, 120, 200), dot(drawn, 280, 200)
    assert left[0] > left[2] + 100
    assert right[2] > right[0] + 100


def test_flip_pairs_tell_sides_apart_where_names_do_not() -> None:
    skeleton = Skeleton(names=("a", "b"), flip_pairs=((0, 1),))
    drawn = draw_people(grey(400, 400), people_of([(120, 200, 2), (280, 200, 2)], (20, 20, 380, 380)), skeleton)
    assert not np.allclose(dot(drawn, 120, 200), dot(drawn, 280, 200), atol=50)


def test_arms_legs_and_head_of_a_side_have_colours_of_their_own() -> None:
    colours = dict(zip(COCO_PERSON.names, part_colours(COCO_PERSON).keypoints, strict=True))
    assert len({colours[f"left_{part}"] for part in ("ear", "wrist", "ankle")}) == 3
    assert colours["left_knee"] == colours["left_ankle"]
    assert colours["nose"] not in {colours["left_eye"], colours["right_eye"]}


def test_a_limb_between_two_sides_is_of_neither() -> None:
    colours, edges = part_colours(COCO_PERSON), COCO_PERSON.edges
    shoulders, thigh = edges.index((5, 6)), edges.index((13, 11))
    assert colours.edges[shoulders] not in {colours.keypoints[5], colours.keypoints[6]}
    assert colours.edges[thigh] == colours.keypoints[13]


@pytest.mark.parametrize("names", [("left_hand", "right_hand"), ("hand_l", "hand_r"), ("LeftHand", "RightHand")])
def test_sides_are_read_from_names_of_many_spellings(names: tuple[str, str]) -> None:
    assert part_colours(Skeleton(names=names)).keypoints == part_colours(TWO_POINTS).keypoints


def test_a_skeleton_without_sides_has_a_colour_for_each_family_of_names() -> None:
    fingers = [f"{finger}{joint}" for finger in ("thumb", "index") for joint in (1, 2)]
    colours = part_colours(Skeleton(names=("wrist", *fingers), edges=((0, 1), (1, 2), (2, 3)))).keypoints
    assert colours[1] == colours[2]
    assert colours[3] == colours[4]
    assert len({colours[0], colours[1], colours[3]}) == 3


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_limbs_stand_out_from_any_background(shade: int) -> None:
    image = np.full((600, 600, 3), shade, np.uint8)
    image[:, :, :] = (255, 165, 45) if shade == 128 else shade  # 128: the very colour of a left arm
    drawn = draw_people(image, people_of([(100, 300, 2), (500, 300, 2)], (20, 20, 580, 580)), TWO_POINTS)
    column_Y3 = drawn[280:320, 200].astype(int)
    assert np.abs(column_Y3 - image[0, 0]).max() > 100


def test_hidden_keypoints_are_hollow_and_unlabelled_ones_absent() -> None:
    skeleton = Skeleton(names=("a", "b", "c"))
    drawn = draw_people(
        grey(400, 400), people_of([(100, 200, 2), (200, 200, 1), (300, 200, 0)], (20, 20, 380, 380)), skeleton
    )
    assert dot(drawn, 100, 200).max() > 150
    assert dot(drawn, 200, 200).max() < 60
    assert drawn[190:210, 190:210].max() > 150
    assert not changed(drawn)[190:210, 290:310].any()


def test_ignored_regions_are_hatched_and_show_no_skeleton() -> None:
    person = people_of([(30, 30, 2), (70, 30, 2)])
    plain = draw_people(grey(), person, TWO_POINTS)
    ignored = draw_people(grey(), replace(person, ignore_N=np.array([True])), TWO_POINTS)
    saturation = ignored.max(axis=2).astype(int) - ignored.min(axis=2)
    assert saturation.max() < 20
    assert (plain.max(axis=2).astype(int) - plain.min(axis=2)).max() > 100
    assert changed(ignored).sum() > 100
    assert not changed(ignored)[:5].any()


def test_unsure_people_and_keypoints_are_left_out() -> None:
    assert not changed(draw_poses(grey(), poses_of([(30, 50, 1), (70, 50, 1)], score=0.2), TWO_POINTS)).any()
    drawn = draw_poses(grey(), poses_of([(30, 50, 0.9), (70, 50, 0.3)]), TWO_POINTS, scores=False)
    assert changed(drawn)[48:52, 28:32].any()
    assert not changed(drawn)[45:55, 40:80].any()


def test_a_surer_keypoint_has_a_bigger_dot() -> None:
    skeleton = Skeleton(names=("a", "b"))
    drawn = draw_poses(
        grey(400, 400), poses_of([(100, 200, 1.0), (300, 200, 0.5)], box=(20, 20, 380, 380)), skeleton, scores=False
    )
    assert changed(drawn)[180:220, 80:120].sum() > changed(drawn)[180:220, 280:320].sum()


def test_lines_grow_with_the_person() -> None:
    def line_px(size: int) -> int:
        points = [(size * 0.3, size / 2, 2), (size * 0.7, size / 2, 2)]
        drawn = draw_people(grey(size, size), people_of(points, (0, 0, size, size)), TWO_POINTS)
        return int(changed(drawn)[size // 4 : -size // 4, size // 2].sum())

    assert line_px(64) <= 3
    assert line_px(640) >= 4
    assert line_px(2160) >= 15


def test_scores_are_written_beside_people_large_enough() -> None:
    def extra(box: tuple[int, int, int, int]) -> int:
        poses = poses_of([(0, 0, 0), (0, 0, 0)], box=box)
        with_score = draw_poses(grey(200, 200), poses, TWO_POINTS)
        return int((with_score != draw_poses(grey(200, 200), poses, TWO_POINTS, scores=False)).sum())

    assert extra((50, 50, 150, 190)) > 0
    assert extra((50, 50, 70, 80)) == 0


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    keypoints=st.integers(1, 32),
    values=st.lists(
        st.floats(allow_nan=True, allow_infinity=True, width=32) | st.floats(-50, 90, width=32), min_size=8, max_size=8
    ),
)
def test_any_skeleton_on_any_image_with_any_coordinates_can_be_drawn(
    height: int, width: int, keypoints: int, values: list[float]
) -> None:
    skeleton = Skeleton(
        names=tuple(f"k{index}" for index in range(keypoints)),
        edges=tuple((index, index + 1) for index in range(keypoints - 1)),
    )
    keypoints_K3 = np.resize(np.array(values, np.float32), (keypoints, 3))
    keypoints_K3[:, 2] = 2
    image = grey(height, width)
    for drawn in (
        draw_people(image, people_of(keypoints_K3, values[:4]), skeleton, keypoint_text="names"),
        draw_people(image, people_of(keypoints_K3, values[:4], ignore=True), skeleton),
        draw_poses(image, poses_of(keypoints_K3, box=values[:4]), skeleton, keypoint_text="numbers"),
    ):
        assert drawn.shape == image.shape
        assert drawn.dtype == np.uint8


def test_a_foreign_skeleton_is_refused_by_count() -> None:
    with pytest.raises(DataError, match=r"2 keypoints, the skeleton 17"):
        draw_people(grey(), people_of([(30, 30, 2), (70, 30, 1)]), COCO_PERSON)


def test_an_image_of_floats_is_refused() -> None:
    with pytest.raises(DataError, match="float64"):
        draw_people(np.zeros((4, 4, 3)), People.empty(17), COCO_PERSON)  # type: ignore[arg-type]


def test_side_by_side_scales_the_right_picture_to_the_left_height() -> None:
    pair = side_by_side(grey(100, 50), grey(200, 300), ("truth", "found"))
    assert pair.shape[1] == 50 + 150 + 4
    assert pair.shape[0] > 100
    assert (pair[-100:, :50] == 128).all()
    assert (pair[-100:, -150:] == 128).all()


def test_a_contact_sheet_has_every_tile_in_reading_order() -> None:
    tiles = [(np.full((20, 30, 3), shade, np.uint8), f"tile {shade}") for shade in (10, 60, 110, 160, 210)]
    sheet = contact_sheet(tiles, columns=3, tile_px=60)
    step_y = (sheet.shape[0] + 4) // 2
    for number, shade in enumerate((10, 60, 110, 160, 210)):
        x, y = number % 3 * 64 + 30, (number // 3 + 1) * step_y - 4 - 30
        assert (sheet[y, x] == shade).all()


def test_captions_of_any_length_keep_the_tile_width() -> None:
    sheet = contact_sheet([(grey(), "x" * 500), (grey(1, 1), ""), (grey(3, 300), "é日")], columns=5, tile_px=40)
    assert sheet.shape[1] == 3 * 40 + 2 * 4


@pytest.mark.parametrize(("tiles", "columns", "tile_px"), [(0, 1, 10), (1, 0, 10), (1, 1, 0)])
def test_a_contact_sheet_of_nothing_is_refused(tiles: int, columns: int, tile_px: int) -> None:
    with pytest.raises(DataError, match="contact sheet"):
        contact_sheet([(grey(), "")] * tiles, columns=columns, tile_px=tile_px)


@pytest.mark.parametrize(("encode", "tolerance"), [(encode_png, 0), (lambda image: encode_jpeg(image, 95), 6)])
def test_encoded_pictures_decode_to_the_same_colours(encode: Callable[[ImageArray], bytes], tolerance: int) -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:] = (200, 100, 30)
    decoded = cv2.cvtColor(cv2.imdecode(np.frombuffer(encode(image), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(decoded.astype(int) - image).max() <= tolerance


def test_a_lower_jpeg_quality_takes_fewer_bytes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert len(encode_jpeg(noise, 30)) < len(encode_jpeg(noise, 95))
