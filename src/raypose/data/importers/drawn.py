"""People as labelling tools know them: keypoints that somebody set, with or without a box that somebody drew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raypose.data.image_check import image_size
from raypose.data.importers.named_images import id_of
from raypose.data.importers.source import Floats, SourceImage, make_people, read_image
from raypose.errors import DataError
from raypose.storage import ObjectStore
from raypose.structures import People, Sample


@dataclass(frozen=True, slots=True)
class DrawnPerson:
    """One person; without keypoints a region to ignore, without a box the rectangle around the labelled keypoints."""

    class_name: str
    keypoints_K3: Floats | None
    box_xyxy_4: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """The people of one image, and its size as the tool knew it; None where it does not say. `place` is for errors."""

    size_wh: tuple[int, int] | None
    people: tuple[DrawnPerson, ...]
    place: str


@dataclass(frozen=True, slots=True)
class DrawnReader:
    """Reads an image whose label is a DrawnImage."""

    images: ObjectStore
    class_names: tuple[str, ...]
    keypoints: int

    def __call__(self, image: SourceImage) -> Sample:
        drawn: DrawnImage = image.label
        content = read_image(self.images, image.key)
        width, height = drawn.size_wh or image_size(content, image.key)
        people = _people(drawn, self.class_names, self.keypoints)
        return Sample(id_of(image.key), content, width, height, people)


def count_empty(images: Sequence[DrawnImage]) -> list[str]:
    """A note on images without people, if there are any: nobody may have come to label them."""
    empty = sum(not image.people for image in images)
    return [f"{empty:,} of {len(images):,} images have no labels and count as images without people"] if empty else []


def _people(drawn: DrawnImage, class_names: tuple[str, ...], keypoints: int) -> People:
    if not drawn.people:
        return People.empty(keypoints)
    points = [np.zeros((keypoints, 3)) if one.keypoints_K3 is None else one.keypoints_K3 for one in drawn.people]
    boxes = [
        _tight_box(xyv_K3, f"{drawn.place}: {person.class_name} {index}")
        if person.box_xyxy_4 is None
        else person.box_xyxy_4
        for index, (person, xyv_K3) in enumerate(zip(drawn.people, points, strict=True))
    ]
    class_N = np.array([class_names.index(person.class_name) for person in drawn.people], np.int64)
    return make_people(np.array(boxes, np.float64), np.stack(points), class_N)


def _tight_box(keypoints_K3: Floats, where: str) -> tuple[float, ...]:
    labelled = keypoints_K3[keypoints_K3[:, 2] > 0, :2]
    if not len(labelled) or (np.ptp(labelled, axis=0) == 0).any():
        raise DataError(
            f"{where}: no box, and its {len(labelled)} labelled keypoints span none; draw a box and group it with them"
        )
    return (*labelled.min(axis=0).tolist(), *labelled.max(axis=0).tolist())
