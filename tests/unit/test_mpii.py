"""MPII: its MAT-file and the JSON made from it name the same people, and CrowdPose's JSON gets its own skeleton."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from raypose.cli.data import app
from raypose.data.build import build_shard_set
from raypose.data.importers.crowdpose import CROWDPOSE_PERSON, read_crowdpose
from raypose.data.importers.mpii import MPII_PERSON, read_mpii
from raypose.data.shard_set import ShardSet
from raypose.errors import DataError
from raypose.structures import People
from tests.pictures import HEIGHT, WIDTH, write_pictures

NONE = np.zeros((0, 0))
XY = [(10.0 + 2 * joint, 50.0 - joint) for joint in range(16)]
HIDDEN, UNSAID, MISSING = 3, 8, 15


def structs(rows: list[dict[str, Any]]) -> Any:
    """A struct array as scipy writes one."""
    array = np.zeros((1, len(rows)), [(key, object) for key in rows[0]])
    for index, row in enumerate(rows):
        for key, value in row.items():
            array[0, index][key] = value
    return array


def rect(points: Any, **changes: Any) -> dict[str, Any]:
    head = {"x1": 40.0, "y1": 5.0, "x2": 60.0, "y2": 30.0}
    return head | {"annopoints": points, "scale": 0.3, "objpos": {"x": 30.0, "y": 40.0}} | changes


def point(joint: int) -> dict[str, Any]:
    flag = NONE if joint == UNSAID else "0" if joint == HIDDEN else 1
    return {"x": XY[joint][0], "y": XY[joint][1], "id": joint, "is_visible": flag}


POINTS = {"point": structs([point(joint) for joint in range(16) if joint != MISSING])}


def write_mat(root: Path, entries: list[dict[str, Any]], train: list[int]) -> tuple[Path, Path]:
    release = {"annolist": structs(entries), "img_train": np.array([train], np.uint8), "version": "12"}
    scipy.io.savemat(root / "mpii.mat", {"RELEASE": release}, do_compression=True)
    names = [str(entry["image"]["name"]) for entry in entries]
    return root / "mpii.mat", write_pictures(root / "images", [name for name in names if ".." not in name])


def entry(name: str, rects: Any) -> dict[str, Any]:
    return {"image": {"name": name}, "annorect": rects, "vididx": NONE}


def people_of(annotations: Path, images: Path) -> People:
    (sample,) = read_mpii(annotations, images).samples
    return sample.people


def test_joints_of_the_mat_file_count_from_zero_and_tell_hidden_from_visible(tmp_path: Path) -> None:
    people = people_of(*write_mat(tmp_path, [entry("a.jpg", rect(POINTS))], [1]))
    points_K3 = people.keypoints_NK3[0]
    for joint in set(range(16)) - {MISSING}:
        assert points_K3[joint].tolist() == [XY[joint][0] - 1, XY[joint][1] - 1, 1 if joint == HIDDEN else 2]
    assert points_K3[MISSING].tolist() == [0, 0, 0]
    assert people.box_xyxy_N4.tolist() == [[9, 4, 59, 49]], "joints and head rectangle, less 1"


def test_people_without_joints_are_regions_to_ignore(tmp_path: Path) -> None:
    rects = structs([rect(POINTS), rect(NONE), rect(NONE, x1=NONE, x2=NONE)])
    people = people_of(*write_mat(tmp_path, [entry("a.jpg", rects)], [1]))
    assert people.ignore_N.tolist() == [False, True, True]
    assert people.box_xyxy_N4[1:].tolist() == [[39, 4, 59, 29], [-1, 9, 59, 69]], "the head; a square of the height"


def test_test_images_and_unlabelled_images_are_left_out_and_counted(tmp_path: Path) -> None:
    nowhere = rect(NONE, x1=NONE, y1=NONE, objpos=NONE)
    entries = [
        entry("a.jpg", structs([rect(POINTS), nowhere])), entry("b.jpg", NONE), entry("c.jpg", rect(NONE)),
        entry("d.jpg", rect(POINTS)), entry("e.jpg", {"x1": 1.0}),
    ]  # fmt: skip
    source = read_mpii(*write_mat(tmp_path, entries, [1, 1, 1, 0, 0]))
    assert [image.key for image in source.images] == ["a.jpg"]
    assert any("2 test images" in note and "2 training images" in note for note in source.notes)
    assert any("1 people who have neither" in note for note in source.notes)


def row(**changes: Any) -> dict[str, Any]:
    flags = [int(joint != MISSING) for joint in range(16)]
    joints = [list(xy) if flag else [-1.0, -1.0] for xy, flag in zip(XY, flags, strict=True)]
    person = {"image": "a.jpg", "joints": joints, "joints_vis": flags, "center": [30.0, 40.0], "scale": 0.3}
    return person | changes


def write_json(root: Path, rows: Any) -> tuple[Path, Path]:
    (root / "valid.json").write_text(json.dumps(rows))
    return root / "valid.json", write_pictures(root / "images", ["a.jpg", "b.jpg"])


def test_the_json_gives_the_same_joints_all_of_them_visible(tmp_path: Path) -> None:
    of_mat = people_of(*write_mat(tmp_path, [entry("a.jpg", rect(POINTS))], [1]))
    source = read_mpii(*write_json(tmp_path, [row(), row(image="b.jpg"), row()]))
    first, second = source.samples
    assert (first.id, len(first.people), second.id) == ("a", 2, "b")
    np.testing.assert_array_equal(first.people.keypoints_NK3[0, :, :2], of_mat.keypoints_NK3[0, :, :2])
    assert set(first.people.keypoints_NK3[0, :, 2]) == {0, 2}
    assert first.people.box_xyxy_N4[0].tolist() == [9, 35, 37, 49]
    assert source.skeleton == MPII_PERSON and any("visible" in note for note in source.notes)


def test_a_single_joint_gets_a_box_of_the_persons_height(tmp_path: Path) -> None:
    people = people_of(*write_json(tmp_path, [row(joints_vis=[1] + [0] * 15)]))
    assert people.box_xyxy_N4.tolist() == [[-1, 9, 59, 69]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": 1}, "expected a list of people"),
        ([], "nobody with labelled joints"),
        ([{"image": "a.jpg", "center": [1, 2], "scale": 1}], r"row 0 \(a\.jpg\): expected 16 joints"),
        ([row(joints=[[1, 2]] * 15)], "expected 16 joints"),
        ([row(joints=[[1, 2]] * 15 + [[1, float("nan")]])], "joint left_wrist"),
        ([row(joints_vis=["1"] * 16)], "joints_vis"),
        ([row(), row(scale=None)], "row 1.*scale"),
        ([row(center=[1])], "center.*expected 2 finite numbers"),
        ([row(image="../a.jpg")], "row 0: image '../a.jpg'"),
        ([row(image="gone.jpg")], "none of the 1 images"),
        ([row(), row(image="gone.jpg")], r"gone\.jpg: cannot read"),
    ],
)
def test_json_that_does_not_fit_names_the_row(rows: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(read_mpii(*write_json(tmp_path, rows)).samples)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry("../a.jpg", rect(POINTS))], r"annolist\(1\): image '../a.jpg'"),
        ([entry("a.jpg", rect({"point": structs([point(0), point(0)])}))], "joint id 0 is no joint, or there twice"),
        ([entry("a.jpg", rect({"point": point(0) | {"id": 16}}))], "joint id 16"),
        ([entry("a.jpg", rect({"point": point(0) | {"x": NONE}}))], "right_ankle has no x or y"),
        ([entry("a.jpg", rect({"point": point(0) | {"x": [1.0, 2.0]}}))], "where one number should be"),
        ([entry("a.jpg", rect(POINTS)), entry("a.jpg", rect(POINTS))], r"annolist\(2\): a\.jpg was there before"),
    ],
)
def test_a_mat_file_that_does_not_fit_names_the_entry(
    entries: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read_mpii(*write_mat(tmp_path, entries, [1] * len(entries)))


def test_a_mat_file_of_something_else_says_what_is_missing(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "other.mat", {"preds": np.zeros((3, 2))})
    with pytest.raises(DataError, match="no RELEASE"):
        read_mpii(tmp_path / "other.mat", tmp_path)


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.just(10**400) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(sorted(row())), value=junk)
def test_json_with_any_value_exchanged_reads_or_is_a_data_error(key: str, value: Any, tmp_path: Path) -> None:
    try:
        assert len(list(read_mpii(*write_json(tmp_path, [row(), row(**{key: value})])).samples)) >= 1
    except DataError as error:
        assert str(tmp_path) in str(error)


def test_the_source_travels_to_other_processes(tmp_path: Path) -> None:
    source = read_mpii(*write_mat(tmp_path, [entry("a.jpg", rect(POINTS))], [1]))
    images, read = pickle.loads(pickle.dumps((source.images, source.read)))
    assert read(images[0]).id == "a"


def crowdpose_json(**changes: Any) -> dict[str, Any]:
    names = ["head" if name == "top_head" else name for name in CROWDPOSE_PERSON.names]
    cocos = [[16, 14], [14, 12], [17, 15], [15, 13]]
    keypoints = [value for x in range(14) for value in (10 + x, 20, 2)]
    image = {"file_name": "a.jpg", "id": 1, "width": WIDTH, "height": HEIGHT, "crowdIndex": 0.85}
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 50, 40], "iscrowd": 0, "keypoints": keypoints}
    category = {"id": 1, "name": "person", "keypoints": names, "skeleton": cocos}
    return {"images": [image], "annotations": [person | {"num_keypoints": 14}], "categories": [category]} | changes


def test_crowdpose_gets_its_own_skeleton_in_place_of_cocos(tmp_path: Path) -> None:
    (tmp_path / "crowdpose.json").write_text(json.dumps(crowdpose_json()))
    write_pictures(tmp_path / "images", ["a.jpg"])
    source = read_crowdpose(tmp_path / "crowdpose.json", tmp_path / "images")
    assert source.skeleton == CROWDPOSE_PERSON and source.class_names == ("person",)
    build_shard_set(source, str(tmp_path / "set"))
    (sample,) = ShardSet.open(str(tmp_path / "set"))
    assert sample.people.keypoints_NK3[0, 13].tolist() == [23, 20, 2]
    assert np.isnan(sample.people.area_N).all(), "so that evaluation takes 0.53 of the box, as CrowdPose does"
    assert any("0 easy, 0 medium, 1 hard" in note for note in source.notes)


def test_other_keypoints_are_not_taken_for_crowdposes(tmp_path: Path) -> None:
    category = {"id": 1, "name": "person", "keypoints": ["nose"]}
    (tmp_path / "coco.json").write_text(json.dumps(crowdpose_json(categories=[category])))
    with pytest.raises(DataError, match=r"expected CrowdPose's 14.*data import coco"):
        read_crowdpose(tmp_path / "coco.json", tmp_path)


def test_the_commands_make_sets(tmp_path: Path) -> None:
    annotations, images = write_mat(tmp_path, [entry("a.jpg", rect(POINTS))], [1])
    (tmp_path / "crowdpose.json").write_text(json.dumps(crowdpose_json()))
    for name, path in (("mpii", annotations), ("crowdpose", tmp_path / "crowdpose.json")):
        options = ["--images", str(images), "--annotations", str(path), "--out", str(tmp_path / name)]
        assert CliRunner().invoke(app, ["import", name, *options], catch_exceptions=False).exit_code == 0
        assert len(ShardSet.open(str(tmp_path / name))) == 1
