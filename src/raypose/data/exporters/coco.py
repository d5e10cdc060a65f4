"""A shard set as COCO keypoint JSON, from which `raypose data import coco` makes the same samples again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from raypose.data.exporters.files import image_name, open_empty, write_each
from raypose.data.importers.coco import CORNERS, ESTIMATED_AREA
from raypose.data.shard_set import ShardSet
from raypose.structures import AREA_PER_BOX, People, Sample, Skeleton

ANNOTATIONS_KEY = "annotations.json"
IMAGES_FOLDER = "images"


def export_coco(shard_set: ShardSet, out: str, *, progress: Callable[[int], None] | None = None) -> int:
    """Write `images/` and then `annotations.json` into the empty place `out`; returns the number of annotations.

    Images keep their bytes and labels their numbers, to the last bit of float32.
    """
    store = open_empty(out)
    # Rows are kept as text, a tenth of the memory that they take as dicts.
    images: list[str] = []
    annotations: list[str] = []
    for image_id, (image, people) in enumerate(write_each(shard_set, store, _convert), start=1):
        images.append(json.dumps({"id": image_id, **image}))
        for person in people:
            row = {"id": len(annotations) + 1, "image_id": image_id, **person}
            annotations.append(json.dumps(row))
        if progress:
            progress(image_id)
    categories = [json.dumps(row) for row in _categories(shard_set.skeleton, shard_set.class_names)]
    tables = {"images": images, "annotations": annotations, "categories": categories}
    text = ",\n".join(f'"{name}": [\n{",".join(_on_lines(rows))}\n]' for name, rows in tables.items())
    store.write(ANNOTATIONS_KEY, f'{{"info": {{"description": "exported by raypose"}},\n{text}\n}}\n'.encode())
    return len(annotations)


def _on_lines(rows: list[str]) -> Iterator[str]:
    return (row if index == 0 else f"\n{row}" for index, row in enumerate(rows))


def _convert(sample: Sample) -> tuple[dict[str, bytes], tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The image file; the rows of the image and its people, without their ids."""
    name = image_name(sample)
    image = {"file_name": name, "width": sample.width, "height": sample.height}
    return {f"{IMAGES_FOLDER}/{name}": sample.image}, (image, list(_people(sample.people)))


def _categories(skeleton: Skeleton, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Flip pairs and sigmas are keys of raypose's own; other readers pass over them."""
    shared = {
        "keypoints": list(skeleton.names),
        "skeleton": _counted_from_1(skeleton.edges),
        "flip_pairs": _counted_from_1(skeleton.flip_pairs),
        "sigmas": None if skeleton.sigmas is None else list(skeleton.sigmas),
    }
    return [
        {"id": index, "name": name, "supercategory": name, **shared} for index, name in enumerate(class_names, start=1)
    ]


def _counted_from_1(pairs: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    return [(first + 1, second + 1) for first, second in pairs]


def _people(people: People) -> Iterator[dict[str, Any]]:
    box_xyxy_N4 = people.box_xyxy_N4.astype(np.float64)
    start_N2, size_N2 = box_xyxy_N4[:, :2], box_xyxy_N4[:, 2:] - box_xyxy_N4[:, :2]
    ends_N2 = (start_N2 + size_N2).astype(np.float32)
    is_exact_N = (ends_N2.view(np.int32) == people.box_xyxy_N4[:, 2:].copy().view(np.int32)).all(axis=1)
    labelled_N = (people.keypoints_NK3[..., 2] > 0).sum(axis=1)
    for index in range(len(people)):
        is_crowd, is_ignored = bool(people.crowd_N[index]), bool(people.ignore_N[index])
        area = float(people.area_N[index])
        person: dict[str, Any] = {
            "category_id": int(people.class_N[index]) + 1,
            "bbox": [*start_N2[index].tolist(), *size_N2[index].tolist()],
            "area": area,
            "iscrowd": int(is_crowd),
            # COCO's evaluation ignores whoever has none, and knows no other way to say so.
            "num_keypoints": 0 if is_ignored else int(labelled_N[index]),
            "keypoints": _flat(people.keypoints_NK3[index]),
        }
        if np.isnan(area):
            person |= {"area": AREA_PER_BOX * float(np.prod(size_N2[index])), ESTIMATED_AREA: 1}
        if is_ignored and not is_crowd:
            person["ignore"] = 1
        if not is_exact_N[index]:
            person[CORNERS] = box_xyxy_N4[index].tolist()
        yield person


def _flat(keypoints_K3: Any) -> list[float | int]:
    """x, y and visibility, one keypoint after another."""
    return [number for x, y, visibility in keypoints_K3.tolist() for number in (x, y, int(visibility))]
