"""Label Studio's JSON: regions that belong together become people, wherever the images lie."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from raypose.cli.data import app
from raypose.data.importers.label_studio import read_label_studio
from raypose.data.importers.source import LabelledSource
from raypose.data.shard_set import ShardSet
from raypose.errors import DataError
from raypose.structures import COCO_PERSON, People
from tests.pictures import HEIGHT, WIDTH, write_pictures

UPLOADED = "/data/upload/7/0a1b2c3d-a.jpg"


def region(kind: str, identity: str, label: str, parent: str = "", **value: Any) -> dict[str, Any]:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    names = {"from_name": kind, "to_name": "image", "type": kind, "id": identity}
    return size | names | {"value": value | {kind: [label]}} | ({"parentID": parent} if parent else {})


def rectangle(identity: str, label: str = "person", **changes: Any) -> dict[str, Any]:
    box = {"x": 10.0, "y": 20.0, "width": 30.0, "height": 60.0, "rotation": 0} | changes
    return region("rectanglelabels", identity, label, **box)


def keypoint(identity: str, label: str, parent: str = "", x: float = 15.0, y: float = 50.0) -> dict[str, Any]:
    return region("keypointlabels", identity, label, parent, x=x, y=y, width=0.5)


def relation(start: str, end: str) -> dict[str, Any]:
    return {"type": "relation", "from_id": start, "to_id": end, "direction": "right"}


def task(*results: Any, image: str = UPLOADED, **changes: Any) -> dict[str, Any]:
    annotation = {"id": 1, "was_cancelled": False, "ground_truth": False, "result": list(results)}
    return {"id": 12, "data": {"image": image}, "annotations": [annotation], "predictions": []} | changes


def write(root: Path, tasks: Any) -> tuple[Path, Path]:
    (root / "export.json").write_text(json.dumps(tasks))
    return root / "export.json", write_pictures(root / "images", ["a.jpg"])


def read(root: Path, *tasks: Any, keypoints: tuple[str, ...] = ()) -> tuple[LabelledSource, People]:
    source = read_label_studio(*write(root, list(tasks)), keypoints)
    (sample,) = source.samples
    assert sample.id == "a"
    return source, sample.people


def test_keypoints_below_a_rectangle_are_a_person_in_pixels(tmp_path: Path) -> None:
    results = [rectangle("r"), keypoint("k", "tail", "r"), keypoint("l", "head", "r", x=25.0)]
    source, people = read(tmp_path, task(*results))
    assert people.box_xyxy_N4.tolist() == [[20, 20, 80, 80]]
    assert people.keypoints_NK3.tolist() == [[[50, 50, 2], [30, 50, 2]]]
    assert source.skeleton.names == ("head", "tail") and source.class_names == ("person",)
    assert any("order of the alphabet" in note for note in source.notes)


@pytest.mark.parametrize("reverse", [False, True])
def test_relations_tie_keypoints_to_rectangles_in_either_direction(reverse: bool, tmp_path: Path) -> None:
    results = [
        rectangle("r"),
        rectangle("s", "dog"),
        keypoint("k", "tail"),
        keypoint("l", "tail"),
        keypoint("m", "head"),
    ]
    ties = [("k", "r"), ("l", "s"), ("m", "l")]
    results += [relation(*(reversed(tie) if reverse else tie)) for tie in ties]
    source, people = read(tmp_path, task(*results))
    assert source.class_names == ("dog", "person") and people.class_N.tolist() == [1, 0]
    assert people.keypoints_NK3[..., 2].tolist() == [[0, 2], [2, 2]]


def test_keypoints_that_nothing_ties_belong_to_the_only_person(tmp_path: Path) -> None:
    loose = [keypoint("k", "tail"), keypoint("l", "head", x=30.0, y=60.0)]
    for results, box in (([rectangle("r"), *loose], [20, 20, 80, 80]), (loose, [30, 50, 60, 60])):
        _, people = read(tmp_path, task(*results))
        assert people.box_xyxy_N4.tolist() == [box] and not people.ignore_N.any()


def test_a_choice_can_say_that_a_keypoint_is_hidden(tmp_path: Path) -> None:
    choice = {"id": "k", "type": "choices", "value": {"choices": ["Occluded"]}}
    _, people = read(tmp_path, task(rectangle("r"), keypoint("k", "tail", "r"), choice))
    assert people.keypoints_NK3[0, 0].tolist() == [30, 50, 1]


def test_rectangles_without_keypoints_are_ignored_and_other_labels_left_out(tmp_path: Path) -> None:
    results = [rectangle("r"), keypoint("k", "tail", "r"), rectangle("s"), rectangle("c", "car")]
    source, people = read(tmp_path, task(*results))
    assert people.ignore_N.tolist() == [False, True] and source.class_names == ("person",)
    assert any("1 rectangles with labels that no person has" in note for note in source.notes)


def test_the_order_of_keypoints_is_cocos_or_as_told(tmp_path: Path) -> None:
    results = [rectangle("r"), keypoint("k", "right_eye", "r"), keypoint("l", "nose", "r")]
    source, people = read(tmp_path, task(*results))
    assert source.skeleton == COCO_PERSON and people.keypoints_NK3[0, :3, 2].tolist() == [2, 0, 2]
    source, people = read(tmp_path, task(*results), keypoints=("right_eye", "left_eye", "nose"))
    assert source.skeleton.flip_pairs == ((0, 1),) and people.keypoints_NK3[0, :, 2].tolist() == [2, 0, 2]
    with pytest.raises(DataError, match="'nose' is not in --keypoints"):
        read(tmp_path, task(*results), keypoints=("right_eye",))
    with pytest.raises(DataError, match=r"--keypoints nose,right_eye,nose.*twice"):
        read(tmp_path, task(*results), keypoints=("nose", "right_eye", "nose"))


def test_ground_truth_comes_first_then_the_latest_and_cancelled_never(tmp_path: Path) -> None:
    def annotation(name: str, day: int, **changes: Any) -> dict[str, Any]:
        result = [rectangle("r"), keypoint("k", name, "r")]
        return {"result": result, "updated_at": f"2026-01-0{day}T00:00:00Z"} | changes

    early, late = annotation("early", 1), annotation("late", 2)
    cancelled, truth = annotation("cancelled", 3, was_cancelled=True), annotation("truth", 1, ground_truth=True)
    for given_, expected in (([late, early, cancelled], "late"), ([late, truth, early], "truth")):
        source, _ = read(tmp_path, task(annotations=given_))
        assert source.skeleton.names == (expected,)
        assert any("1 tasks have several annotations" in note for note in source.notes)


def test_unannotated_tasks_are_left_out_and_empty_annotations_are_images_without_people(tmp_path: Path) -> None:
    labelled = task(rectangle("r"), keypoint("k", "tail", "r"))
    source = read_label_studio(*write(tmp_path, [task(annotations=[]), task(), labelled]))
    empty, full = source.samples
    assert (len(empty.people), len(full.people)) == (0, 1) and empty.width == WIDTH
    assert any("1 tasks without an annotation were left out" in note for note in source.notes)
    assert any("1 of 2 images have no labels" in note for note in source.notes)


PLACES = {
    "an upload": (UPLOADED, "a.jpg"),
    "an upload as it lies on the server": (UPLOADED, "7/0a1b2c3d-a.jpg"),
    "a local file": ("/data/local-files/?d=photos/tour%201/a.jpg", "tour 1/a.jpg"),
    "a URL": ("https://example.org/photos/a%20b.jpg?size=full", "photos/a b.jpg"),
    "a bucket": ("s3://bucket/photos/a.jpg", "a.jpg"),
}


@pytest.mark.parametrize("name", PLACES)
def test_images_are_found_by_the_end_of_their_path(name: str, tmp_path: Path) -> None:
    reference, key = PLACES[name]
    annotations, _ = write(tmp_path, [task(rectangle("r"), keypoint("k", "tail", "r"), image=reference)])
    folder = write_pictures(tmp_path / "place", [key, "other/c.jpg"])
    assert [image.key for image in read_label_studio(annotations, folder).images] == [key]


def test_another_key_of_the_data_may_name_the_image(tmp_path: Path) -> None:
    results = [rectangle("r"), keypoint("k", "tail", "r")]
    assert len(read(tmp_path, task(*results, data={"photo": UPLOADED, "note": "blue"}))[1]) == 1
    with pytest.raises(DataError, match=r"task 12: data has no 'image'.*found photo, other"):
        read(tmp_path, task(*results, data={"photo": UPLOADED, "other": "b.png"}))


BAD: dict[str, tuple[Any, str]] = {
    "an object": ({}, "expected a list of tasks"),
    "no tasks": ([], "expected a list of tasks"),
    "JSON-MIN": ([{"image": UPLOADED, "kp": []}], "export the project as 'JSON'"),
    "no keypoints": ([task(rectangle("r"))], "no keypoints"),
    "no results": ([task(annotations=[{"id": 3}])], "task 12: an annotation without a list 'result'"),
    "a point of two": ([task(rectangle("r"), rectangle("s"), keypoint("k", "tail"))], "'tail' belongs to none of 2"),
    "two rectangles": (
        [task(rectangle("r"), rectangle("s"), keypoint("k", "tail", "r"), relation("k", "s"))], "2 rectangles belong"
    ),
    "a keypoint twice": ([task(keypoint("k", "tail"), keypoint("l", "tail"))], "'tail' is there twice"),
    "a rotated rectangle": ([task(rectangle("r", rotation=3), keypoint("k", "tail", "r"))], "'person' is rotated"),
    "a rotated image": ([task(keypoint("k", "tail") | {"image_rotation": 90})], "image is rotated"),
    "no size": ([task(keypoint("k", "tail") | {"original_width": None})], "original_width None"),
    "two sizes": (
        [task(keypoint("k", "tail"), keypoint("l", "head") | {"original_width": 9})], "images of different sizes"
    ),
    "no label": ([task(region("keypointlabels", "k", "tail", x=1, y=2) | {"value": {}})], "'k' has labels None"),
    "no position": ([task(keypoint("k", "tail", y=None))], "'tail' has y None, expected percent"),  # type: ignore[arg-type]
    "a path that climbs": ([task(keypoint("k", "tail"), image="../a.jpg")], r"\.\./a\.jpg"),
    "an image inside": ([task(keypoint("k", "tail"), image="data:image/png;base64,AA")], "no 'image' that names"),
    "no such image": ([task(keypoint("k", "tail"), image="/data/upload/1/gone.jpg")], "none of the 1 images"),
    "classes, but no rectangle": (
        [task(rectangle("r"), keypoint("k", "tail", "r"), rectangle("s", "dog"), keypoint("l", "tail", "s")),
         task(keypoint("m", "tail"))],
        "people without a rectangle, but classes dog, person",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_an_export_that_does_not_fit_names_file_and_fault(name: str, tmp_path: Path) -> None:
    tasks, message = BAD[name]
    with pytest.raises(DataError, match=message) as caught:
        list(read_label_studio(*write(tmp_path, tasks)).samples)
    assert str(tmp_path) in str(caught.value)


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.just(10**400)
    | st.floats()
    | st.sampled_from(["", "r", "http://["]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=junk)
def test_an_export_with_any_value_exchanged_reads_or_is_a_data_error(
    data: st.DataObject, value: Any, tmp_path: Path
) -> None:
    tasks: Any = [task(rectangle("r"), keypoint("k", "tail", "r"), keypoint("l", "head", "r", x=40.0))]
    tasks[0]["annotations"][0]["result"] += [
        relation("k", "r"), {"id": "k", "type": "choices", "value": {"choices": ["hidden"]}}
    ]  # fmt: skip
    node = tasks[0]
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = value
    try:
        assert len(list(read_label_studio(*write(tmp_path, tasks)).samples)) == 1
    except DataError as error:
        assert str(tmp_path) in str(error)


def test_the_source_travels_to_other_processes(tmp_path: Path) -> None:
    source, people = read(tmp_path, task(rectangle("r"), keypoint("k", "tail", "r")))
    images, reader = pickle.loads(pickle.dumps((source.images, source.read)))
    np.testing.assert_array_equal(reader(images[0]).people.keypoints_NK3, people.keypoints_NK3)


def test_the_command_makes_a_set_with_keypoints_in_the_order_given(tmp_path: Path) -> None:
    annotations, images = write(tmp_path, [task(rectangle("r"), keypoint("k", "tail", "r"))])
    options = ["--images", str(images), "--annotations", str(annotations), "--out", str(tmp_path / "set")]
    arguments = ["import", "label-studio", *options, "--keypoints", "tail, head"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    made = ShardSet.open(str(tmp_path / "set"))
    assert made.skeleton.names == ("tail", "head") and [len(sample.people) for sample in made] == [1]
