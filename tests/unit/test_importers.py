"""Foreign formats: folders with pickles, COCO JSON and YOLO-txt become the same samples."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from raypose.data.build import build_shard_set
from raypose.data.importers.coco import read_coco
from raypose.data.importers.folder import read_folder, write_folder
from raypose.data.importers.keypoint_names import flip_pairs_from_names, sigmas_from_names
from raypose.data.importers.yolo_txt import read_yolo
from raypose.data.shard_set import ShardSet
from raypose.data.stats import collect_stats
from raypose.errors import DataError, StorageError, UnsafePickleError
from raypose.structures import COCO_PERSON, People

DATA = Path(__file__).parents[3] / "shared" / "data"
WIDTH, HEIGHT = 40, 20
BOX = [4.0, 2.0, 20.0, 18.0]
KEYPOINTS = [[4.0, 2.0, 2], [20.0, 18.0, 1], [0.0, 0.0, 0]]
ROW = [0, 12 / 40, 10 / 20, 16 / 40, 16 / 20, 4 / 40, 2 / 20, 2, 20 / 40, 18 / 20, 1, 0, 0, 0]
"""BOX and KEYPOINTS once more, as YOLO writes them."""
NAMES = ["head", "left_hand", "right_hand"]

junk = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.just(10**400) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_dataset(root: Path, labels: dict[str, Any], **settings: Any) -> Path:
    for stem, label in labels.items():
        for folder in ("images", "labels"):
            (root / folder / stem).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / f"{stem}.jpg").write_bytes(picture())
        content = label if isinstance(label, bytes) else pickle.dumps(label)
        (root / "labels" / f"{stem}.pkl").write_bytes(content)
    settings = {"classes": ["person", "dog"], "skeleton": {"names": NAMES, "flip_pairs": [[1, 2]]}} | settings
    (root / "dataset.yaml").write_text(yaml.safe_dump({key: value for key, value in settings.items() if value}))
    return root


def people_of(root: Path) -> People:
    (sample,) = read_folder(root).samples
    return sample.people


PERSON = {"box": BOX, "keypoints": np.array(KEYPOINTS)}
FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "list of people": ([PERSON], {}),
    "plain lists": ([{"box": BOX, "keypoints": KEYPOINTS, "class": 0}], {}),
    "class by name": ([PERSON | {"class": "person"}], {}),
    "box from keypoints": ([{"keypoints": KEYPOINTS}], {}),
    "dict of arrays": ({"boxes": np.array([BOX]), "keypoints": np.array([KEYPOINTS])}, {}),
    "dict of lists": ({"boxes": [BOX], "keypoints": [KEYPOINTS], "classes": [0], "ignore": [False]}, {}),
    "normalised dicts": (
        [{"box": [0.1, 0.1, 0.5, 0.9], "keypoints": [[0.1, 0.1, 2], [0.5, 0.9, 1], [0, 0, 0]]}],
        {"coordinates": "normalised"},
    ),
    "normalised rows": (np.array([ROW]), {"coordinates": "normalised"}),
    "rows in pixels": (np.array([[0, 12, 10, 16, 16, *np.ravel(KEYPOINTS)]]), {}),
    "skipped key": ([PERSON | {"track": 7}], {"skip_keys": ["track"]}),
    "noise at an unlabelled point": ([{"box": BOX, "keypoints": [*KEYPOINTS[:2], [7.0, float("nan"), 0]]}], {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_label_gives_the_same_person(form: str, tmp_path: Path) -> None:
    label, settings = FORMS[form]
    people = people_of(write_dataset(tmp_path, {"sub/a": label}, **settings))
    np.testing.assert_allclose(people.box_xyxy_N4, [BOX], rtol=1e-6)
    np.testing.assert_allclose(people.keypoints_NK3, [KEYPOINTS], rtol=1e-6)
    assert people.class_N.tolist() == [0] and not people.ignore_N.any() and np.isnan(people.area_N).all()


def test_points_without_visibility_are_visible_unless_absent(tmp_path: Path) -> None:
    label = [{"box": BOX, "keypoints": [[4.0, 2.0], [np.nan, 3.0], [0.0, 0.0]]}]
    assert people_of(write_dataset(tmp_path, {"a": label})).keypoints_NK3.tolist() == [
        [[4, 2, 2], [0, 0, 0], [0, 0, 0]]
    ]


def test_area_ignore_and_crowd_are_kept_and_crowds_are_ignored(tmp_path: Path) -> None:
    label = [PERSON | {"area": 9.5, "class": 1}, PERSON | {"ignore": True}, PERSON | {"crowd": True}]
    label.append({"box": BOX, "keypoints": np.zeros((3, 3))})
    people = people_of(write_dataset(tmp_path, {"a": label}))
    assert people.area_N[0] == np.float32(9.5) and people.class_N.tolist() == [1, 0, 0, 0]
    assert people.ignore_N.tolist() == [False, True, True, True]
    assert people.crowd_N.tolist() == [False, False, True, False]


@pytest.mark.parametrize("label", [[], (), np.zeros((0, 14)), np.zeros(0), {"keypoints": []}])
def test_a_label_of_nobody_is_an_image_without_people(label: Any, tmp_path: Path) -> None:
    people = people_of(write_dataset(tmp_path, {"a": label}))
    assert len(people) == 0 and people.keypoints_NK3.shape == (0, 3, 3)


BAD_LABELS: dict[str, tuple[Any, str]] = {
    "unknown key": ([PERSON | {"keypoint": 1}], "unknown key 'keypoint'"),
    "no keypoints": ([{"box": BOX}], "no keypoints"),
    "too few keypoints": ([{"box": BOX, "keypoints": KEYPOINTS[:2]}], "expected"),
    "mixed dimensions": ([PERSON, {"keypoints": [[1.0, 2.0]] * 3}], "different shapes"),
    "ragged": ([{"keypoints": [[1, 2, 3], [1]]}], "no regular array"),
    "text": ([{"keypoints": "many"}], "no regular array"),
    "a box of three": ([PERSON | {"box": [1, 2, 3]}], "box"),
    "boxes of another count": ({"boxes": [BOX] * 2, "keypoints": [KEYPOINTS]}, "box of shape"),
    "class by unknown name": ([PERSON | {"class": "cat"}], "'cat', dataset.yaml has person, dog"),
    "half a class": ([PERSON | {"class": 0.5}], "whole number"),
    "columns": (np.zeros((1, 13)), "expected"),
    "a number": (3, "type int"),
    "a list of numbers": ([1, 2], "type list"),
    "garbage": (b"garbage", "not a readable pickle"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_a_label_that_does_not_fit_names_file_and_fault(name: str, tmp_path: Path) -> None:
    label, message = BAD_LABELS[name]
    with pytest.raises(DataError, match=message) as caught:
        people_of(write_dataset(tmp_path, {"a": label}))
    assert "a.pkl" in str(caught.value)


label_keys = st.sampled_from(["keypoints", "box", "boxes", "class", "classes", "area", "areas", "ignore", "crowd"])
arrays = hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


@pytest.fixture(scope="module")
def one_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("one"), {"a": []})


@settings(max_examples=150, deadline=None)
@given(
    junk | arrays | (people := st.dictionaries(label_keys, junk | arrays | st.just([KEYPOINTS]) | st.just(KEYPOINTS)))
    | st.lists(people, max_size=3)
)  # fmt: skip
def test_a_label_of_any_data_reads_or_is_a_data_error(one_image: Path, label: Any) -> None:
    (one_image / "labels/a.pkl").write_bytes(pickle.dumps(label))
    try:
        assert people_of(one_image).keypoints_NK3.shape[1:] == (3, 3)
    except DataError as error:
        assert "a.pkl" in str(error)


def test_a_label_with_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", {"a": f"cposix\nsystem\n(V touch {tmp_path}/stolen\ntR.".encode()})
    with pytest.raises(UnsafePickleError, match=r"posix\.system"):
        people_of(root)
    assert not (tmp_path / "stolen").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"coordinates": "metres"}, "metres"),
        ({"classes": None}, "classes"),
        ({"classes": ["a", "a"]}, "different"),
        ({"skeleton": "bee"}, "bee"),
        ({"skeleton": {"names": NAMES, "edges": [[0, 3]]}}, r"0\.\.2"),
        ({"skeleton": {"names": NAMES, "edge": []}}, "unknown key 'edge'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_folder(write_dataset(tmp_path, {"a": []}, **settings))


def test_images_and_labels_must_match_one_to_one(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, {"a": [PERSON], "b": [PERSON]})
    (root / "labels/a.pkl").rename(root / "labels/c.pkl")
    with pytest.raises(DataError, match=r"a\.jpg: no label(.|\n)*c\.pkl: no image"):
        read_folder(root)
    (root / "labels/c.pkl").rename(root / "labels/a.pkl")
    (root / "images/a.png").write_bytes(picture())
    with pytest.raises(DataError, match="same stem"):
        read_folder(root)
    (root / "images/a.png").rename(root / "images/notes.txt")
    with pytest.raises(DataError, match=r"notes\.txt"):
        read_folder(root)


def test_linked_folders_of_images_and_labels_are_read(tmp_path: Path) -> None:
    write_dataset(tmp_path / "tour", {"b": [PERSON], "deep/c": [PERSON]})
    root = write_dataset(tmp_path / "people", {"a": [PERSON]})
    for folder in ("images", "labels"):
        (root / folder / "tour").symlink_to(tmp_path / "tour" / folder)
    assert [sample.id for sample in read_folder(root).samples] == ["a", "tour/b", "tour/deep/c"]


def test_a_destination_that_no_folder_can_be_is_a_storage_error(tmp_path: Path) -> None:
    source = read_folder(write_dataset(tmp_path / "people", {"a": [PERSON]}))
    with pytest.raises(StorageError, match="cannot read: File name too long"):
        build_shard_set(source, str(tmp_path / ("a" * 300)))


def test_a_folder_without_settings_or_images_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.yaml"):
        read_folder(tmp_path)
    (tmp_path / "dataset.yaml").write_text("classes: [person]\nskeleton: coco\n")
    with pytest.raises(DataError, match="images: no such folder"):
        read_folder(tmp_path)


def test_a_written_folder_reads_back_the_same(tmp_path: Path) -> None:
    label = [PERSON | {"area": 9.5, "class": 1}, PERSON | {"crowd": True}, PERSON | {"ignore": True}]
    source = read_folder(write_dataset(tmp_path / "in", {"x/a": label, "b": []}))
    samples = list(source.samples)
    assert write_folder(samples, source.skeleton, source.class_names, tmp_path / "out") == 2
    again = read_folder(tmp_path / "out")
    assert (again.skeleton, again.class_names, len(again.images)) == (source.skeleton, source.class_names, 2)
    for found, expected in zip(again.samples, samples, strict=True):
        assert (found.id, found.image, found.width) == (expected.id, expected.image, expected.width)
        for name in People.__slots__:
            np.testing.assert_array_equal(getattr(found.people, name), getattr(expected.people, name))
    with pytest.raises(StorageError, match="empty"):
        write_folder(samples, source.skeleton, source.class_names, tmp_path / "out")


def coco_json(**changes: Any) -> dict[str, Any]:
    person = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [4, 2, 16, 16], "iscrowd": 0, "area": 99.5}
    person["keypoints"] = [4, 2, 2, 20, 18, 1, 0, 0, 0]
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": [person],
        "categories": [{"id": 3, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}],
    } | changes


def write_coco(root: Path, raw: Any) -> tuple[Path, Path]:
    (root / "images").mkdir(exist_ok=True)
    for name in ("a.jpg", "b.jpg"):
        (root / "images" / name).write_bytes(picture())
    (root / "coco.json").write_text(json.dumps(raw))
    return root / "coco.json", root / "images"


def test_coco_people_keep_box_keypoints_and_segment_area(tmp_path: Path) -> None:
    source = read_coco(*write_coco(tmp_path, coco_json()))
    (sample,) = source.samples
    assert sample.id == "a" and (sample.width, sample.height) == (WIDTH, HEIGHT)
    assert sample.people.box_xyxy_N4.tolist() == [BOX] and sample.people.keypoints_NK3.tolist() == [KEYPOINTS]
    assert sample.people.area_N.tolist() == [99.5] and not sample.people.ignore_N.any()
    assert source.skeleton.edges == ((0, 1), (0, 2)) and source.skeleton.flip_pairs == ((1, 2),)
    assert source.skeleton.sigmas is None and any("sigmas: none" in note for note in source.notes)


def test_coco_crowds_and_people_without_keypoints_are_ignored_and_negatives_kept(tmp_path: Path) -> None:
    raw = coco_json()
    (person,) = raw["annotations"]
    raw["annotations"] += [person | {"id": 2, "iscrowd": 1}, person | {"id": 3, "keypoints": [0] * 9}]
    raw["annotations"] += [person | {"id": 4, "keypoints": [0] * 9, "bbox": [1, 1, 0, 0]}]
    raw["images"].append({"id": 8, "file_name": "b.jpg"})
    source = read_coco(*write_coco(tmp_path, raw))
    first, negative = source.samples
    assert first.people.ignore_N.tolist() == [False, True, True]
    assert first.people.crowd_N.tolist() == [False, True, False]
    assert len(negative.people) == 0 and negative.width == WIDTH
    assert any(note.startswith("1 ignored annotations") for note in source.notes)


def test_coco_categories_may_share_one_skeleton_and_state_sigmas(tmp_path: Path) -> None:
    category = coco_json()["categories"][0] | {"sigmas": [0.1, 0.2, 0.2]}
    raw = coco_json(categories=[category | {"id": 9, "name": "dog"}, category])
    source = read_coco(*write_coco(tmp_path, raw))
    assert source.class_names == ("person", "dog") and source.skeleton.sigmas == (0.1, 0.2, 0.2)


def test_a_coco_category_that_only_groups_others_is_left_out(tmp_path: Path) -> None:
    """Roboflow lists one before the real ones (https://github.com/roboflow/rf-detr/pull/1303)."""
    raw = coco_json()
    raw["categories"].insert(0, {"id": 0, "name": "persons", "supercategory": "none"})
    source = read_coco(*write_coco(tmp_path, raw))
    assert source.class_names == ("person",)
    assert [sample.people.class_N.tolist() for sample in source.samples] == [[0]]
    assert "category 'persons' has neither keypoints nor annotations and was left out" in source.notes


def test_coco_sizes_may_be_whole_numbers_with_a_point(tmp_path: Path) -> None:
    image = {"id": 7, "file_name": "a.jpg", "width": float(WIDTH), "height": float(HEIGHT)}
    (sample,) = read_coco(*write_coco(tmp_path, coco_json(images=[image]))).samples
    assert (sample.width, sample.height) == (WIDTH, HEIGHT) and type(sample.width) is int
    with pytest.raises(DataError, match=r"width 40\.5 and height 20\.0 must be whole"):
        list(read_coco(*write_coco(tmp_path, coco_json(images=[image | {"width": 40.5}]))).samples)


def test_coco_paths_from_windows_are_followed(tmp_path: Path) -> None:
    raw = coco_json(images=[{"id": 7, "file_name": "images\\a.jpg"}])
    annotations, images = write_coco(tmp_path, raw)
    (sample,) = read_coco(annotations, images.parent).samples
    assert sample.id == "images/a"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": [{"id": 3, "name": "cat"}]}, "'cat' has no keypoint names"),
        ({"categories": []}, "no categories"),
        ({"images": None}, "no list 'images'"),
        ({"annotations": [{"id": 5, "image_id": 1, "category_id": 3}]}, "annotation 5: image_id 1"),
        ({"annotations": [{"id": 5, "image_id": 7, "category_id": 1}]}, "annotation 5: category_id 1"),
        ({"annotations": [{"id": 5, "image_id": 7, "category_id": 3, "bbox": [1, 2]}]}, "bbox has 2 values"),
        (
            {"annotations": [{"id": 5, "image_id": 7, "category_id": 3, "bbox": BOX, "keypoints": [1, 2, 2]}]},
            "keypoints has 3 values, expected 9",
        ),
        ({"images": [{"id": 7, "file_name": "../a.jpg"}]}, "file_name"),
        ({"images": [{"id": 7, "file_name": "gone.jpg"}]}, r"none of the 1 images .* gone\.jpg"),
        ({"images": [{"id": 7, "file_name": "a.jpg"}] * 2}, "share an id"),
    ],
)
def test_coco_json_that_does_not_fit_names_the_fault(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        list(read_coco(*write_coco(tmp_path, coco_json(**changes))).samples)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=st.sampled_from(["images", "annotations", "categories"]), data=st.data())
def test_coco_json_with_any_value_exchanged_reads_or_is_a_data_error(
    table: str, data: st.DataObject, tmp_path: Path
) -> None:
    raw = coco_json()
    row = raw[table][0]
    row[data.draw(st.sampled_from([*row, "sigmas"]))] = data.draw(junk)
    try:
        assert len(list(read_coco(*write_coco(tmp_path, raw)).samples)) == 1
    except DataError as error:
        assert str(tmp_path) in str(error)


def test_coco_categories_with_different_keypoints_are_refused(tmp_path: Path) -> None:
    other = {"id": 4, "name": "hand", "keypoints": ["thumb"]}
    raw = coco_json(categories=[*coco_json()["categories"], other])
    with pytest.raises(DataError, match="different keypoints"):
        read_coco(*write_coco(tmp_path, raw))


def write_yolo(root: Path, rows: dict[str, str], **settings: Any) -> Path:
    for name, text in rows.items():
        for folder in ("images/train", "labels/train"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "images/train" / f"{name}.jpg").write_bytes(picture())
        if text is not None:
            (root / "labels/train" / f"{name}.txt").write_text(text)
    settings = {
        "path": "", "train": "images/train", "names": {0: "person"}, "kpt_shape": [3, 3], "flip_idx": [0, 2, 1],
    } | settings  # fmt: skip
    (root / "data.yaml").write_text(
        yaml.safe_dump({key: value for key, value in settings.items() if value is not None})
    )
    return root / "data.yaml"


TEXT_ROW = " ".join(f"{value:.8f}" if index else "0" for index, value in enumerate(ROW))


def test_yolo_rows_become_pixels_and_a_missing_text_is_nobody(tmp_path: Path) -> None:
    source = read_yolo(write_yolo(tmp_path, {"a": TEXT_ROW + "\n\n", "b": None}), "train")  # type: ignore[dict-item]
    first, second = source.samples
    np.testing.assert_allclose(first.people.box_xyxy_N4, [BOX], rtol=1e-5)
    np.testing.assert_allclose(first.people.keypoints_NK3, [KEYPOINTS], rtol=1e-5)
    assert [first.id, second.id] == ["a", "b"] and len(second.people) == 0
    assert source.skeleton.flip_pairs == ((1, 2),) and source.skeleton.names[2] == "keypoint_2"
    assert any("1 of 2 images have no label file" in note for note in source.notes)


def test_yolo_points_without_visibility_are_visible_unless_absent(tmp_path: Path) -> None:
    row = "0 0.3 0.5 0.4 0.8 0.1 0.1 -1 0.5 0 0"
    (sample,) = read_yolo(write_yolo(tmp_path, {"a": row}, kpt_shape=[3, 2]), "train").samples
    assert sample.people.keypoints_NK3[0, :, 2].tolist() == [2, 0, 0]


def test_yolo_lists_of_images_are_followed(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": TEXT_ROW, "b": TEXT_ROW}, train="few.txt")
    (tmp_path / "few.txt").write_text("./images/train/b.jpg\n")
    (sample,) = read_yolo(path, "train").samples
    assert sample.id == "images/train/b" and len(sample.people) == 1


def test_yolo_paths_from_windows_are_followed(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": TEXT_ROW, "b": TEXT_ROW}, train="lists\\few.txt")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/few.txt").write_bytes(b"images\\train\\b.jpg\r\n")
    (sample,) = read_yolo(path, "train").samples
    assert sample.id == "images/train/b" and len(sample.people) == 1


def test_a_step_up_that_leads_nowhere_is_one_too_many(tmp_path: Path) -> None:
    """Roboflow's data.yaml lies beside `train`, and yet says `../train/images`; Ultralytics finds it."""
    path = write_yolo(tmp_path / "inner", {"a": TEXT_ROW}, train="../images/train", path=None)
    (sample,) = read_yolo(path, "train").samples
    assert sample.id == "a" and len(sample.people) == 1


def test_yolo_labels_without_an_image_are_told(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": TEXT_ROW, "b": TEXT_ROW, "c": TEXT_ROW})
    (tmp_path / "images/train/b.jpg").rename(tmp_path / "images/train/b.heic")
    (tmp_path / "labels/train/night").mkdir()
    (tmp_path / "labels/train/c.txt").rename(tmp_path / "labels/train/night/c.txt")
    source = read_yolo(path, "train")
    assert [image.label.sample_id for image in source.images] == ["a", "c"]
    (note,) = [note for note in source.notes if "have no image" in note]
    assert note.startswith("2 label files") and note.endswith("labels/train/b.txt")
    (tmp_path / "few.txt").write_text("images/train/a.jpg\n")
    source = read_yolo(write_yolo(tmp_path, {}, train="few.txt"), "train")
    assert not [note for note in source.notes if "have no image" in note]  # they are another split's


def test_words_that_yaml_takes_for_truth_values_are_names(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": TEXT_ROW})
    path.write_text(path.read_text().replace("person", "no"))
    assert read_yolo(path, "train").class_names == ("no",)
    root = write_dataset(tmp_path / "people", {"a": [PERSON | {"class": "off"}]})
    (root / "dataset.yaml").write_text("classes: [on, off]\nskeleton: {names: [head, yes, no]}\n")
    source = read_folder(root)
    assert (source.class_names, source.skeleton.names) == (("on", "off"), ("head", "yes", "no"))
    assert people_of(root).class_N.tolist() == [1]


def test_yolo_keypoint_names_give_sigmas_and_cocos_layout_is_recognised(tmp_path: Path) -> None:
    named = {"kpt_names": {0: ["neck", "left_hip", "right_hip"]}}
    assert read_yolo(write_yolo(tmp_path, {"a": TEXT_ROW}, **named), "train").skeleton.sigmas == (0.079, 0.107, 0.107)
    coco = {"kpt_shape": [17, 3], "flip_idx": list(COCO_PERSON.flip_index)}
    source = read_yolo(write_yolo(tmp_path, {"a": ""}, **coco), "train")
    assert source.skeleton == COCO_PERSON and any("taken for COCO's" in note for note in source.notes)


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        (TEXT_ROW + " 1", {}, r"a\.txt:1: 15 numbers, expected 14"),
        (TEXT_ROW + "\n" + TEXT_ROW[:-1] + "x", {}, r"a\.txt:2"),
        ("0.5" + TEXT_ROW[1:], {}, "whole number"),
        ("0 12 10 16 16 4 2 2 20 18 1 0 0 0", {}, "expected 0 to 1"),
        ("0 nan 0.5 0.4 0.8 0.1 0.1 2 0 0 0 0 0 0", {}, "expected 0 to 1"),
        ("", {"kpt_shape": [3, 4]}, "kpt_shape"),
        ("", {"kpt_shape": None}, "kpt_shape"),
        ("", {"flip_idx": [0, 2, 2]}, "flip_idx"),
        ("", {"flip_idx": [1, 2, 0]}, "flip_idx"),
        ("", {"kpt_names": {0: ["a"]}}, "kpt_names"),
        ("", {"names": None}, "names"),
        ("", {"train": None}, "no split 'train'"),
        ("", {"train": "elsewhere"}, "no such folder"),
    ],
)
def test_yolo_that_does_not_fit_names_the_fault(
    row: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        list(read_yolo(write_yolo(tmp_path, {"a": row}, **settings), "train").samples)


def test_names_give_cocos_own_pairs_and_sigmas() -> None:
    assert flip_pairs_from_names(COCO_PERSON.names) == COCO_PERSON.flip_pairs
    assert sigmas_from_names(COCO_PERSON.names) == COCO_PERSON.sigmas
    assert flip_pairs_from_names(["l_ear", "nose", "r_ear", "left_paw"]) == ((0, 2),)
    assert sigmas_from_names(["nose", "antenna"]) is None


REAL = {
    "coco-mini train": ("coco-mini", "annotations/person_keypoints_train2017.json", "train2017", (80, 172, 86)),
    "coco-mini val": ("coco-mini", "annotations/person_keypoints_val2017.json", "val2017", (79, 118, 68)),
    "lspet val": ("lspet", "annotations/val.json", "val", (160, 160, 160)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_data_sets_import_with_their_known_counts(name: str, tmp_path: Path) -> None:
    folder, annotations, images, expected = REAL[name]
    if not (DATA / folder).is_dir():
        pytest.skip(f"{DATA / folder} is not here")
    source = read_coco(DATA / folder / annotations, DATA / folder / images)
    build_shard_set(source, str(tmp_path / "set"))
    stats = collect_stats(ShardSet.open(str(tmp_path / "set")))
    assert (stats.images, stats.annotations, stats.labelled_people) == expected
    assert source.skeleton.sigmas is not None
    if folder == "coco-mini":
        assert source.skeleton == COCO_PERSON
