"""Label Studio's JSON export: tasks with regions, of which keypoints and rectangles belong together as people."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from raypose.data.importers.drawn import DrawnImage, DrawnPerson, DrawnReader, count_empty
from raypose.data.importers.keypoint_names import flip_pairs_from_names, sigmas_from_names
from raypose.data.importers.named_images import find_images
from raypose.data.importers.source import IMAGE_SUFFIXES, LabelledSource, key_below, read_text, refuse_if_any
from raypose.errors import DataError
from raypose.storage import open_parent, open_store
from raypose.structures import COCO_PERSON, Skeleton

HIDDEN_CHOICES = frozenset({"hidden", "occluded", "invisible"})
"""A per-region choice of one of these makes a keypoint labelled but hidden."""

_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-(.+)")
"""Label Studio puts eight hex digits in front of the names of uploaded files."""
_KEYPOINT, _RECTANGLE = "keypointlabels", "rectanglelabels"
_DEFAULT_CLASS = "person"
_MAX_PERCENT = 1e6

_Raw = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Person:
    """Regions that belong together; coordinates in pixels."""

    class_name: str | None
    box_xyxy_4: tuple[float, ...] | None
    points: dict[str, tuple[float, float, float]]


@dataclass(frozen=True, slots=True)
class _Task:
    """One image with its people, before anything is known of the others."""

    keys: list[str]
    size_wh: tuple[int, int] | None
    people: tuple[_Person, ...]
    place: str


def read_label_studio(annotations: str | Path, images: str | Path, keypoints: Sequence[str] = ()) -> LabelledSource:
    """Every annotated task of the export ("JSON", not "JSON-MIN"); `keypoints` gives the order of the keypoints.

    Without it they are COCO's 17, if they are all among them, or else in the order of the alphabet: the export does
    not tell the order in which the project lists its labels, and all exports of a project have to agree.
    """
    store, key = open_parent(str(annotations))
    where = store.place(key)
    tasks, notes = _read_tasks(_load(read_text(store, key, "Label Studio's JSON export"), where), where)
    skeleton, names_note = _skeleton(tasks, tuple(keypoints), where)
    class_names, left_out = _class_names(tasks, where)
    if left_out:
        notes.append(f"left out: {left_out:,} rectangles with labels that no person has")
    drawn = [_drawn(task, skeleton, class_names) for task in tasks]
    folder = open_store(str(images))
    found = find_images(folder, [(task.keys, image) for task, image in zip(tasks, drawn, strict=True)], where)
    reader = DrawnReader(folder, class_names, skeleton.keypoints)
    return LabelledSource(skeleton, class_names, found, reader, (*names_note, *notes, *count_empty(drawn)))


def _load(text: str, where: str) -> list[_Raw]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}; expected Label Studio's export") from error
    if not isinstance(raw, list) or not raw or not all(isinstance(task, dict) for task in raw):
        raise DataError(f"{where}: expected a list of tasks; export the project as 'JSON'")
    if not all(isinstance(task.get("data"), dict) and isinstance(task.get("annotations"), list) for task in raw):
        raise DataError(f"{where}: a task without data or annotations, as in 'JSON-MIN'; export the project as 'JSON'")
    return raw


def _read_tasks(raw: list[_Raw], where: str) -> tuple[list[_Task], list[str]]:
    problems, tasks, unlabelled, several = [], [], 0, 0
    for index, task in enumerate(raw):
        place = f"{where}: task {str(task.get('id', f'number {index + 1}'))[:40]}"
        given = [one for one in task["annotations"] if isinstance(one, dict) and not one.get("was_cancelled")]
        unlabelled += not given
        several += len(given) > 1
        if not given:
            continue
        # Reviewed truth first, then the latest word: the times are ISO 8601, whose text sorts by time.
        chosen = max(given, key=lambda one: (bool(one.get("ground_truth")), str(one.get("updated_at"))))
        try:
            tasks.append(_read_task(task, chosen, place))
        except DataError as error:
            problems.append(str(error))
    refuse_if_any(problems)
    notes = [f"{unlabelled:,} tasks without an annotation were left out"] if unlabelled else []
    if several:
        notes.append(f"{several:,} tasks have several annotations: ground truth was taken, else the one updated last")
    return tasks, notes


def _read_task(task: _Raw, annotation: _Raw, place: str) -> _Task:
    results = annotation.get("result")
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise DataError(f"{place}: an annotation without a list 'result'")
    regions = [result for result in results if result.get("type") in (_KEYPOINT, _RECTANGLE)]
    sizes = {_size(region, place) for region in regions}
    if len(sizes) > 1:
        raise DataError(f"{place}: regions on images of different sizes {sorted(sizes)}; expected one image in a task")
    size_wh = next(iter(sizes), None)
    people = (
        tuple(_person(group, results, size_wh, place) for group in _groups(regions, results, place)) if size_wh else ()
    )
    return _Task(_keys(task["data"], place), size_wh, people, place)


def _groups(regions: list[_Raw], results: list[_Raw], place: str) -> list[list[_Raw]]:
    """Regions that parents and relations tie together; keypoints that nothing ties go to the only person there is."""
    leader: dict[str, str] = {}

    def lead(region: str) -> str:
        while leader.setdefault(region, region) != region:
            region = leader[region]
        return region

    for result in results:
        is_relation = result.get("type") == "relation"
        ends = (
            (result.get("from_id"), result.get("to_id")) if is_relation else (result.get("id"), result.get("parentID"))
        )
        if all(isinstance(end, str) and end for end in ends):
            leader[lead(str(ends[0]))] = lead(str(ends[1]))
    members: dict[str, list[_Raw]] = defaultdict(list)
    for index, region in enumerate(regions):
        identity = region.get("id")
        members[lead(identity) if isinstance(identity, str) else f"region {index}"].append(region)
    groups: list[list[_Raw]] = []
    loose: list[list[_Raw]] = []
    for group in members.values():
        is_loose = len(group) == 1 and group[0]["type"] == _KEYPOINT
        (loose if is_loose else groups).append(group)
    if loose and len(groups) > 1:
        raise DataError(
            f"{place}: keypoint {_label(loose[0][0], place)!r} belongs to none of {len(groups)} people; put it under a"
            " rectangle (as its parent) or relate it to one"
        )
    merged = [region for group in groups[:1] + loose for region in group]
    return [merged] if loose else groups


def _person(group: list[_Raw], results: list[_Raw], size_wh: tuple[int, int], place: str) -> _Person:
    rectangles = [region for region in group if region["type"] == _RECTANGLE]
    if len(rectangles) > 1:
        raise DataError(f"{place}: {len(rectangles)} rectangles belong together; expected one for each person")
    hidden = [result.get("id") for result in results if _says_hidden(result)]
    points: dict[str, tuple[float, float, float]] = {}
    for region in group:
        if region["type"] == _KEYPOINT:
            label = _label(region, place)
            if label in points:
                raise DataError(
                    f"{place}: keypoint {label!r} is there twice for one person; tell people apart by parents"
                )
            x, y = _pixels(region, ("x", "y"), size_wh, place)
            points[label] = (x, y, 1.0 if region.get("id") in hidden else 2.0)
    if not rectangles:
        return _Person(None, None, points)
    (rectangle,) = rectangles
    label = _label(rectangle, place)
    if rectangle["value"].get("rotation"):
        raise DataError(f"{place}: rectangle {label!r} is rotated; draw it upright")
    left, top, width, height = _pixels(rectangle, ("x", "y", "width", "height"), size_wh, place)
    return _Person(label, (left, top, left + width, top + height), points)


def _skeleton(tasks: list[_Task], stated: tuple[str, ...], where: str) -> tuple[Skeleton, list[str]]:
    used = {name for task in tasks for person in task.people for name in person.points}
    if stated and not used <= set(stated):
        raise DataError(f"{where}: keypoint {min(used - set(stated))!r} is not in --keypoints {','.join(stated)}")
    if not stated and not used:
        raise DataError(f"{where}: no keypoints; expected regions of type {_KEYPOINT}")
    if stated in ((), COCO_PERSON.names) and used <= set(COCO_PERSON.names):
        return COCO_PERSON, ["skeleton: COCO's 17 keypoints"]
    names = stated or tuple(sorted(used))
    order = "as given" if stated else "in the order of the alphabet (--keypoints gives another)"
    try:
        skeleton = Skeleton(names, (), flip_pairs_from_names(names), sigmas_from_names(names))
    except DataError as error:
        raise DataError(f"{where}: --keypoints {','.join(stated)}: {error}") from error
    return skeleton, [
        f"skeleton: {len(names)} keypoints {order}, without edges: {', '.join(names)}",
        f"OKS sigmas: {'by keypoint name' if skeleton.sigmas else 'none, not known by keypoint name'}",
        f"flip pairs, by keypoint name: {len(skeleton.flip_pairs)}",
    ]


def _class_names(tasks: list[_Task], where: str) -> tuple[tuple[str, ...], int]:
    """Labels of rectangles that have keypoints, and how many rectangles have other labels."""
    people = [person for task in tasks for person in task.people]
    names = sorted({person.class_name for person in people if person.points and person.class_name})
    if len(names) > 1 and any(person.class_name is None for person in people):
        raise DataError(f"{where}: people without a rectangle, but classes {', '.join(names)}; draw their rectangles")
    names = names or [_DEFAULT_CLASS]
    return tuple(names), sum(person.class_name not in (None, *names) for person in people)


def _drawn(task: _Task, skeleton: Skeleton, class_names: tuple[str, ...]) -> DrawnImage:
    people = [person for person in task.people if person.class_name in (None, *class_names)]
    drawn = []
    for person in people:
        keypoints_K3 = np.array([person.points.get(name, (0.0, 0.0, 0.0)) for name in skeleton.names])
        drawn.append(DrawnPerson(person.class_name or class_names[0], keypoints_K3, person.box_xyxy_4))
    return DrawnImage(task.size_wh, tuple(drawn), task.place)


def _keys(data: _Raw, place: str) -> list[str]:
    """Keys under which the image may lie below the folder: its path, ever shorter from the left."""
    named = [value for value in data.values() if isinstance(value, str) and _names_an_image(value)]
    reference = data.get("image", named[0] if len(named) == 1 else None)
    path = _path_in(reference) if isinstance(reference, str) else ""
    if not path:
        raise DataError(f"{place}: data has no 'image' that names a file, found {', '.join(data)[:80] or 'nothing'}")
    parts = PurePosixPath(key_below(path, f"{place}: image")).parts
    keys = ["/".join(parts[index:]) for index in range(len(parts))]
    uploaded = _UPLOAD_PREFIX.fullmatch(parts[-1])
    return [*keys, uploaded[1]] if uploaded else keys


def _names_an_image(reference: str) -> bool:
    return PurePosixPath(_path_in(reference)).suffix.lower() in IMAGE_SUFFIXES


def _path_in(reference: str) -> str:
    """The path of a file in a URL or in Label Studio's `/data/local-files/?d=…`; empty where there is none."""
    try:
        parsed = urlsplit(reference)
    except ValueError:  # such as http://[
        return ""
    if parsed.scheme == "data":
        return ""
    is_served = parsed.path.rstrip("/").endswith("/local-files")
    path = parse_qs(parsed.query).get("d", [""])[0] if is_served else unquote(parsed.path)
    return path.lstrip("/")


def _says_hidden(result: _Raw) -> bool:
    value = result.get("value")
    choices = value.get("choices") if result.get("type") == "choices" and isinstance(value, dict) else None
    return isinstance(choices, list) and any(str(choice).lower() in HIDDEN_CHOICES for choice in choices)


def _label(region: _Raw, place: str) -> str:
    value = region.get("value")
    labels = value.get(region["type"]) if isinstance(value, dict) else None
    match labels:
        case [str(label)] if label:
            return label
    raise DataError(f"{place}: region {str(region.get('id'))[:40]!r} has labels {str(labels)[:60]}, expected one")


def _size(region: _Raw, place: str) -> tuple[int, int]:
    width, height = region.get("original_width"), region.get("original_height")
    if type(width) is not int or type(height) is not int or not (0 < width < 1 << 31 and 0 < height < 1 << 31):
        raise DataError(
            f"{place}: original_width {str(width)[:60]} and original_height {str(height)[:60]}, expected whole numbers"
        )
    if region.get("image_rotation"):
        raise DataError(f"{place}: the image is rotated in the editor; rotate the file itself")
    return width, height


def _pixels(region: _Raw, names: Iterable[str], size_wh: tuple[int, int], place: str) -> list[float]:
    """Numbers of the region's value, from percent of the image's width and height."""
    found = []
    for index, name in enumerate(names):
        percent = region["value"].get(name)
        if type(percent) not in (int, float) or not abs(percent) < _MAX_PERCENT:
            raise DataError(f"{place}: {_label(region, place)!r} has {name} {str(percent)[:60]}, expected percent")
        found.append(percent * size_wh[index % 2] / 100)
    return found
