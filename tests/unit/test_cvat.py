"""CVAT for images 1.1: skeletons, point sets and boxes become people, and the XML can do no harm."""

from __future__ import annotations

import pickle
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from raypose.cli.data import app
from raypose.data.importers.cvat import read_cvat
from raypose.data.importers.source import LabelledSource
from raypose.data.shard_set import ShardSet
from raypose.errors import DataError
from raypose.structures import People
from tests.pictures import HEIGHT, WIDTH, write_pictures

DRAWING = """
<line x1="1" y1="1" x2="2" y2="2" data-type="edge" data-node-from="1" data-node-to="3"></line>
<line x1="1" y1="1" x2="2" y2="2" data-type="edge" data-node-from="2" data-node-to="9"></line>
<circle r="1" cx="1" cy="1" data-type="element node" data-node-id="1" data-label-name="nose"></circle>
<circle r="1" cx="1" cy="1" data-type="element node" data-node-id="2" data-label-name="left_eye"></circle>
<circle r="1" cx="2" cy="2" data-type="element node" data-node-id="3" data-label-name="right_eye"></circle>
"""


def label(name: str, kind: str = "points", parent: str = "", drawing: str = "") -> str:
    more = f"<parent>{parent}</parent>" * bool(parent) + f"<svg>{escape(drawing)}</svg>" * bool(drawing)
    return f"<label><name>{name}</name><type>{kind}</type><attributes></attributes>{more}</label>"


PARTS = "".join(label(name, parent="person") for name in ("nose", "left_eye", "right_eye"))
SKELETON = label("person", "skeleton", drawing=DRAWING) + PARTS + label("box", "rectangle")
PERSON = """<skeleton label="person" source="manual" z_order="0" group_id="4">
  <points label="left_eye" occluded="1" outside="0" points="30.5,20.25"></points>
  <points label="nose" occluded="0" outside="0" points="20,30"></points>
  <points label="right_eye" occluded="0" outside="1" points="99,99"></points>
</skeleton>"""
BOX = '<box label="box" occluded="0" xtl="10.5" ytl="5" xbr="60" ybr="80" z_order="0" group_id="4"></box>'


def write(root: Path, shapes: str, labels: str = SKELETON, head: str = "", attributes: str = "") -> tuple[Path, Path]:
    image = f'<image id="0" name="tour/a.jpg" width="{WIDTH}" height="{HEIGHT}" {attributes}>{shapes}</image>'
    meta = f"<meta><task><name>t</name><labels>{labels}</labels></task></meta>"
    text = f'<?xml version="1.0" encoding="utf-8"?>{head}<annotations><version>1.1</version>{meta}{image}</annotations>'
    (root / "annotations.xml").write_text(text)
    return root / "annotations.xml", write_pictures(root / "images", ["tour/a.jpg"])


def read(root: Path, shapes: str, labels: str = SKELETON) -> tuple[LabelledSource, People]:
    source = read_cvat(*write(root, shapes, labels))
    (sample,) = source.samples
    assert sample.id == "tour/a"
    return source, sample.people


def test_a_skeleton_with_the_box_of_its_group_is_a_person(tmp_path: Path) -> None:
    source, people = read(tmp_path, PERSON + BOX)
    assert people.box_xyxy_N4.tolist() == [[10.5, 5, 60, 80]]
    assert people.keypoints_NK3.tolist() == [[[20, 30, 2], [30.5, 20.25, 1], [0, 0, 0]]]
    assert source.class_names == ("person",) and source.skeleton.names == ("nose", "left_eye", "right_eye")
    assert source.skeleton.edges == ((0, 2),) and source.skeleton.flip_pairs == ((1, 2),)
    assert source.skeleton.sigmas == (0.026, 0.025, 0.025)


def test_without_a_box_the_keypoints_span_one(tmp_path: Path) -> None:
    _, people = read(tmp_path, PERSON)
    assert people.box_xyxy_N4.tolist() == [[20, 20.25, 30.5, 30]]


def test_a_lone_box_of_a_persons_label_is_ignored_and_other_shapes_are_counted(tmp_path: Path) -> None:
    lone = '<box label="person" xtl="1" ytl="2" xbr="3" ybr="4"/><box label="box" xtl="1" ytl="2" xbr="3" ybr="4"/>'
    source, people = read(tmp_path, PERSON + lone + '<polygon label="sky" points="1,2;3,4;5,6"/><tag label="sky"/>')
    assert people.ignore_N.tolist() == [False, True]
    assert "left out: 1 box 'box', 1 polygon 'sky', 1 tag 'sky'" in source.notes


def test_point_sets_are_people_where_no_label_is_a_skeleton(tmp_path: Path) -> None:
    labels = label("dog") + label("cat") + label("box", "rectangle")
    shapes = '<points label="cat" occluded="1" points="1,2;30,40" group_id="7"/><points label="dog" points="5,6;7,8"/>'
    source, people = read(tmp_path, shapes + BOX.replace('"4"', '"7"'), labels)
    assert source.class_names == ("dog", "cat") and source.skeleton.names == ("keypoint_0", "keypoint_1")
    assert people.class_N.tolist() == [1, 0] and people.box_xyxy_N4[0].tolist() == [10.5, 5, 60, 80]
    assert people.keypoints_NK3.tolist() == [[[1, 2, 1], [30, 40, 1]], [[5, 6, 2], [7, 8, 2]]]


def test_images_without_shapes_are_kept_and_counted(tmp_path: Path) -> None:
    source, people = read(tmp_path, "")
    assert len(people) == 0 and people.keypoints_NK3.shape == (0, 3, 3)
    assert any("1 of 1 images have no labels" in note for note in source.notes)


def test_images_of_a_project_lie_in_folders_of_their_subsets_and_frames_get_a_suffix(tmp_path: Path) -> None:
    annotations, _ = write(tmp_path, PERSON, attributes='subset="train" task_id="3"')
    folder = write_pictures(tmp_path / "project", ["train/tour/a.jpg"])
    assert [image.key for image in read_cvat(annotations, folder).images] == ["train/tour/a.jpg"]
    annotations.write_text(annotations.read_text().replace("tour/a.jpg", "frame_000007"))
    folder = write_pictures(tmp_path / "frames", ["frame_000007.PNG"])
    (sample,) = read_cvat(annotations, folder).samples
    assert sample.id == "frame_000007"


BAD = {
    "no meta": ("", "", "<annotations><image/></annotations>", "no <meta>"),
    "no images": ("", SKELETON, "<annotations></annotations>", "no <image> elements"),
    "a track": ("", SKELETON, "<annotations><track id='1'></track></annotations>", "CVAT for video"),
    "cut off": ("", SKELETON, "<annotations><image", "not valid XML"),
    "another encoding": ("", SKELETON, "<?xml version='1.0' encoding='klingon'?><a/>", "not valid XML"),
    "nobody": ("<box label='x' xtl='1' ytl='1' xbr='2' ybr='2'/>", label("x"), "", "neither skeletons nor point sets"),
    "an unknown point": (PERSON.replace("left_eye", "chin"), SKELETON, "", "point 'chin' is not in the skeleton"),
    "a point twice": (PERSON.replace("left_eye", "nose"), SKELETON, "", "'nose' is not in the skeleton, or there"),
    "no coordinates": (PERSON.replace("20,30", "20"), SKELETON, "", "nose: points '20', expected x,y once"),
    "two coordinates": (PERSON.replace("20,30", "20,30;1,2"), SKELETON, "", "expected x,y once"),
    "an endless coordinate": (PERSON.replace("20,30", "inf,30"), SKELETON, "", "expected x,y once"),
    "two boxes": (PERSON + BOX + BOX, SKELETON, "", "group 4 holds 1 people and 2 boxes"),
    "two people": (PERSON + PERSON + BOX, SKELETON, "", "group 4 holds 2 people and 1 boxes"),
    "a rotated box": (PERSON + BOX.replace(" xtl", ' rotation="9" xtl'), SKELETON, "", "rotated"),
    "a box of words": (PERSON + BOX.replace("10.5", "left"), SKELETON, "", "xtl 'left', expected a number"),
    "a group of words": (PERSON.replace('"4"', '"red"'), SKELETON, "", "group_id 'red'"),
    "skeletons that differ": ("", SKELETON + label("dog", "skeleton") + label("x", parent="dog"), "", "one skeleton"),
    "one point, no box": (PERSON.replace('"0" points="20', '"1" points="20'), SKELETON, "", "draw a box"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_xml_that_does_not_fit_names_file_and_fault(name: str, tmp_path: Path) -> None:
    shapes, labels, text, message = BAD[name]
    annotations, images = write(tmp_path, shapes, labels)
    if text:
        annotations.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        list(read_cvat(annotations, images).samples)
    assert "annotations.xml" in str(caught.value)


def test_every_image_that_does_not_fit_is_named(tmp_path: Path) -> None:
    annotations, images = write(tmp_path, PERSON.replace("20,30", "x"))
    text = annotations.read_text()
    image = text[text.index("<image") : text.index("</annotations>")]
    annotations.write_text(text.replace(image, image + image.replace("tour/a", "b")))
    with pytest.raises(DataError, match=r"image 'tour/a\.jpg'.*\n.*image 'b\.jpg'"):
        read_cvat(annotations, images)


LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
ATTACKS = {
    "a billion laughs": (f'<!DOCTYPE a [<!ENTITY a0 "ha">{LAUGHS}]>', "&a9;"),
    "a local file": ('<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>', "&a;"),
    "a remote type": ('<!DOCTYPE a SYSTEM "http://127.0.0.1:1/a.dtd">', ""),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_entities_are_refused_before_they_are_read(name: str, tmp_path: Path) -> None:
    head, shapes = ATTACKS[name]
    with pytest.raises(DataError, match="document type"):
        read_cvat(*write(tmp_path, shapes, head=head))


def test_elements_inside_each_other_end_in_a_person_nonetheless(tmp_path: Path) -> None:
    depth = 100_000
    source, _ = read(tmp_path, PERSON + "<attribute>" * depth + "</attribute>" * depth)
    assert len(source.images) == 1


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), text=st.sampled_from(["", '"', "<", "&", "9", "é", "1e999", " ", "\0"]))
def test_xml_with_any_place_exchanged_reads_or_is_a_data_error(place: float, text: str, tmp_path: Path) -> None:
    annotations, images = write(tmp_path, PERSON + BOX)
    whole = annotations.read_text()
    at = int(place * len(whole))
    annotations.write_text(whole[:at] + text + whole[at + 1 :])
    try:
        assert np.isfinite([sample.width for sample in read_cvat(annotations, images).samples]).all()
    except DataError as error:
        assert str(tmp_path) in str(error)


def test_the_source_travels_to_other_processes(tmp_path: Path) -> None:
    source, people = read(tmp_path, PERSON + BOX)
    images, reader = pickle.loads(pickle.dumps((source.images, source.read)))
    np.testing.assert_array_equal(reader(images[0]).people.keypoints_NK3, people.keypoints_NK3)


def test_the_command_makes_a_set_and_prints_the_notes(tmp_path: Path) -> None:
    annotations, images = write(tmp_path, PERSON + BOX + '<tag label="sky"/>')
    options = ["--images", str(images), "--annotations", str(annotations), "--out", str(tmp_path / "set")]
    result = CliRunner().invoke(app, ["import", "cvat", *options], catch_exceptions=False)
    assert result.exit_code == 0 and "note: left out: 1 tag 'sky'" in result.stdout
    (sample,) = ShardSet.open(str(tmp_path / "set"))
    assert sample.people.box_xyxy_N4.tolist() == [[10.5, 5, 60, 80]]
