"""CVAT's "CVAT for images 1.1": one XML with the labels and, for each image, its shapes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from raypose.data.importers.drawn import DrawnImage, DrawnPerson, DrawnReader, count_empty
from raypose.data.importers.keypoint_names import flip_pairs_from_names, sigmas_from_names
from raypose.data.importers.named_images import find_images
from raypose.data.importers.source import IMAGE_SUFFIXES, Floats, LabelledSource, key_below, read_bytes, refuse_if_any
from raypose.errors import DataError
from raypose.storage import open_parent, open_store
from raypose.structures import Skeleton

_FRAME_SUFFIXES = (".PNG", ".png", ".jpg")
"""What CVAT calls the frames of a video when it exports them: their names in the XML have no suffix."""


@dataclass(frozen=True, slots=True)
class _Labels:
    """What `<meta>` says: the labels that are people, and their keypoints. No keypoints: people are `<points>`."""

    class_names: tuple[str, ...]
    keypoints: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]


class _Tree(ElementTree.TreeBuilder):
    """Refuses document types: entities, which can grow without end or name other files, come in no other way."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    def doctype(self, *_: object) -> None:
        raise DataError(f"{self._where}: a document type, which CVAT never writes; remove <!DOCTYPE …>")


class _Document(_Tree):
    """Takes in image by image, so that a large export never stands in memory as a tree."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.labels: _Labels | None = None
        self.images: list[tuple[list[str], DrawnImage]] = []
        self.left_out: Counter[str] = Counter()
        self.problems: list[str] = []

    def end(self, tag: str) -> Element:
        element = super().end(tag)
        if tag == "track":
            raise DataError(f"{self._where}: tracks, so this is 'CVAT for video'; export it as 'CVAT for images 1.1'")
        if tag == "meta":
            self.labels = _read_labels(element, self._where)
        elif tag == "image":
            self._add(element)
            element.clear()
        return element

    def _add(self, element: Element) -> None:
        if self.labels is None:
            raise DataError(f"{self._where}: no <meta> before the images, so nothing says what is a person")
        place = f"{self._where}: image {str(element.get('name'))[:120]!r}"
        try:
            people, left_out = _read_people(element, self.labels, place)
            size_wh = (_whole(element, "width", place), _whole(element, "height", place))
            self.images.append((_keys(element, place), DrawnImage(size_wh, people, place)))
        except DataError as error:
            self.problems.append(str(error))
            return
        self.left_out += left_out


def read_cvat(annotations: str | Path, images: str | Path) -> LabelledSource:
    """Every image of the XML. Skeletons are people; so are point sets, where no label is a skeleton.

    A box is a person's if it has the same `group_id`; a box of a person's label that is nobody's is an ignored region.
    """
    store, key = open_parent(str(annotations))
    where = store.place(key)
    document = _Document(where)
    _parse(read_bytes(store, key, "CVAT's annotations.xml"), document, where)
    refuse_if_any(document.problems)
    if document.labels is None or not document.images:
        raise DataError(f"{where}: no <image> elements; export the task as 'CVAT for images 1.1'")
    drawn = [image for _, image in document.images]
    skeleton, notes = _skeleton(document.labels, drawn, where)
    if document.left_out:
        shapes = ", ".join(f"{count:,} {shape}" for shape, count in sorted(document.left_out.items()))
        notes.append(f"left out: {shapes}")
    folder = open_store(str(images))
    reader = DrawnReader(folder, document.labels.class_names, skeleton.keypoints)
    found = find_images(folder, document.images, where)
    return LabelledSource(skeleton, document.labels.class_names, found, reader, (*notes, *count_empty(drawn)))


def _parse(content: bytes, target: _Tree, where: str) -> Element:
    parser = ElementTree.XMLParser(target=target)
    try:
        parser.feed(content)
        root: Element = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: an encoding nobody knows
        raise DataError(f"{where}: not valid XML: {error}; expected CVAT's annotations.xml") from error
    return root


def _read_labels(meta: Element, where: str) -> _Labels:
    labels = [(_text(label, "name"), _text(label, "type"), label) for label in meta.iterfind("*/labels/label")]
    skeletons = [(name, label) for name, kind, label in labels if kind == "skeleton"]
    if not skeletons:
        kinds = ("points",) if any(kind == "points" for _, kind, _ in labels) else ("any", "")
        return _Labels(tuple(name for name, kind, _ in labels if kind in kinds), (), ())
    parts: dict[str, list[str]] = defaultdict(list)
    for name, _, label in labels:
        parts[_text(label, "parent")].append(name)
    first, drawing = skeletons[0][0], _text(skeletons[0][1], "svg")
    for name, _ in skeletons:
        if not parts[name] or parts[name] != parts[first]:
            raise DataError(
                f"{where}: skeletons {first!r} and {name!r} have different points ({len(parts[first])} and"
                f" {len(parts[name])}); one shard set has one skeleton, so export them apart"
            )
    names = tuple(parts[first])
    return _Labels(tuple(name for name, _ in skeletons), names, _edges(drawing, names, where))


def _edges(drawing: str, names: tuple[str, ...], where: str) -> tuple[tuple[int, int], ...]:
    """Lines between the points of a skeleton, from the SVG fragment that CVAT draws it with."""
    elements = list(_parse(f"<svg>{drawing}</svg>".encode(), _Tree(where), f"{where}: <svg> of the skeleton").iter())
    index_of = {name: index for index, name in enumerate(names)}
    node_of = {
        element.get("data-node-id"): index_of[element.get("data-label-name", "")]
        for element in elements
        if element.get("data-label-name") in index_of
    }
    lines = [line for line in elements if line.get("data-type") == "edge"]
    ends = ((line.get("data-node-from"), line.get("data-node-to")) for line in lines)
    return tuple((node_of[start], node_of[end]) for start, end in ends if start in node_of and end in node_of)


def _skeleton(labels: _Labels, images: Iterable[DrawnImage], where: str) -> tuple[Skeleton, list[str]]:
    names, notes = labels.keypoints, [f"edges: {len(labels.edges)}, from the drawing of the skeleton"]
    if not names:
        people = [(image, person) for image in images for person in image.people if person.keypoints_K3 is not None]
        if not people:
            raise DataError(f"{where}: neither skeletons nor point sets; label people with one of them")
        sizes = [len(person.keypoints_K3) for _, person in people if person.keypoints_K3 is not None]
        refuse_if_any(
            [
                f"{image.place}: {size} points, the first person has {sizes[0]}; give every person all, in one order"
                for (image, _), size in zip(people, sizes, strict=True)
                if size != sizes[0]
            ]
        )
        names, notes = tuple(f"keypoint_{k}" for k in range(sizes[0])), ["point sets have no names: numbered"]
    sigmas = sigmas_from_names(names)
    try:
        skeleton = Skeleton(names, labels.edges, flip_pairs_from_names(names), sigmas)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    known = "COCO's constants, by keypoint name" if sigmas else "none, not known by keypoint name"
    return skeleton, [*notes, f"OKS sigmas: {known}", f"flip pairs, by keypoint name: {len(skeleton.flip_pairs)}"]


def _read_people(image: Element, labels: _Labels, place: str) -> tuple[tuple[DrawnPerson, ...], Counter[str]]:
    """People of the image, and how many shapes of which kind are none."""
    people: list[tuple[int, str, Floats]] = []
    boxes: dict[int, list[Element]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    kind = "skeleton" if labels.keypoints else "points"
    for shape in image:
        label, group = shape.get("label", ""), _group(shape, place)
        if shape.tag == kind and label in labels.class_names:
            read = _skeleton_points if labels.keypoints else _point_set
            people.append((group, label, read(shape, labels.keypoints, f"{place}: {label} {len(people)}")))
        elif shape.tag == "box":
            boxes[group].append(shape)
        elif shape.tag != "attribute":
            left_out[f"{shape.tag} {label!r}"] += 1
    owners = Counter(group for group, _, _ in people if group)
    drawn = []
    for group, label, keypoints_K3 in people:
        own = boxes.pop(group, []) if group else []
        if len(own) > 1 or (group and owners[group] > 1 and own):
            raise DataError(
                f"{place}: group {group} holds {owners[group]} people and {len(own)} boxes; expected one of each"
            )
        drawn.append(DrawnPerson(label, keypoints_K3, _box(own[0], place) if own else None))
    for box in (box for group in boxes.values() for box in group):
        if box.get("label") in labels.class_names:
            drawn.append(DrawnPerson(box.get("label", ""), None, _box(box, place)))
        else:
            left_out[f"box {box.get('label')!r}"] += 1
    return tuple(drawn), left_out


def _skeleton_points(shape: Element, names: tuple[str, ...], place: str) -> Floats:
    keypoints_K3, seen = np.zeros((len(names), 3)), set()
    for point in shape.iterfind("points"):
        name = point.get("label", "")
        if name not in names or name in seen:
            raise DataError(f"{place}: point {name!r} is not in the skeleton, or there twice")
        seen.add(name)
        if point.get("outside") == "1":
            continue
        ((x, y),) = _coordinates(point, f"{place}: {name}", 1)
        keypoints_K3[names.index(name)] = x, y, 1 if point.get("occluded") == "1" else 2
    return keypoints_K3


def _point_set(shape: Element, _: tuple[str, ...], place: str) -> Floats:
    xy_K2 = np.array(_coordinates(shape, place), np.float64)
    visibility = 1.0 if shape.get("occluded") == "1" else 2.0
    return np.concatenate([xy_K2, np.full((len(xy_K2), 1), visibility)], axis=1)


def _coordinates(shape: Element, place: str, count: int | None = None) -> list[tuple[float, float]]:
    text = shape.get("points", "")
    try:
        pairs = [tuple(float(number) for number in pair.split(",")) for pair in text.split(";")]
    except ValueError:
        pairs = []
    found = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2 and all(map(math.isfinite, pair))]
    if not found or len(found) != len(pairs) or (count and len(found) != count):
        raise DataError(f"{place}: points {text[:60]!r}, expected x,y" + (" once" if count else "; x,y; …"))
    return found


def _box(box: Element, place: str) -> tuple[float, ...]:
    if float(_number(box, "rotation", place, 0.0)):
        raise DataError(f"{place}: box {box.get('label')!r} is rotated; draw it upright")
    return tuple(_number(box, name, place) for name in ("xtl", "ytl", "xbr", "ybr"))


def _number(element: Element, name: str, place: str, default: float | None = None) -> float:
    text = element.get(name)
    if text is None and default is not None:
        return default
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{place}: {element.tag} has {name} {str(text)[:60]!r}, expected a number")
    return number


def _whole(element: Element, name: str, place: str) -> int:
    text = element.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise DataError(f"{place}: {element.tag} has {name} {text[:60]!r}, expected a whole number")
    return int(text)


def _group(shape: Element, place: str) -> int:
    return 0 if shape.get("group_id") is None else _whole(shape, "group_id", place)


def _keys(image: Element, place: str) -> list[str]:
    """Where the image may lie: exports of a project put subsets into folders, and frames get a suffix."""
    name = key_below(image.get("name"), place)
    names = [name] if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES else [name + end for end in _FRAME_SUFFIXES]
    subset = image.get("subset")
    folders = [key_below(subset, f"{place}: subset") + "/", ""] if subset else [""]
    return [folder + name for folder in folders for name in names]


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()
