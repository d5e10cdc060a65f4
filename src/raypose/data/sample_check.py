"""Whether a sample can be learnt from: people that fit the skeleton and the classes, an image that is whole."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypose.data.image_check import check_image
from raypose.data.sample_id import check_sample_id
from raypose.errors import DataError
from raypose.structures import BoolArray, People, Sample, Skeleton


def check_sample(sample: Sample, skeleton: Skeleton, classes: int) -> None:
    """Decode the image and look at every number; raises DataError for the first fault."""
    check_sample_id(sample.id, "a sample")
    _check_people(sample.people, sample.id, skeleton, classes)
    check_image(sample.image, sample.id, expected=(sample.width, sample.height))


def _check_people(people: People, where: str, skeleton: Skeleton, classes: int) -> None:
    if people.keypoints_NK3.shape[1] != skeleton.keypoints:
        raise DataError(
            f"{where}: {people.keypoints_NK3.shape[1]} keypoints a person, the skeleton has {skeleton.keypoints}"
        )
    box, visibility_NK = people.box_xyxy_N4, people.keypoints_NK3[..., 2]
    area_N, class_N, ignore_N = people.area_N, people.class_N, people.ignore_N
    has_labelled_N = (visibility_NK > 0).any(axis=1)
    rules: tuple[tuple[BoolArray | np.bool_, str, NDArray[Any] | None], ...] = (
        (np.isfinite(people.keypoints_NK3).all(axis=2), "coordinates that are no finite numbers", people.keypoints_NK3),
        (np.isfinite(box).all(axis=1), "a box that is not made of finite numbers", box),
        ((box[:, 2:] > box[:, :2]).all(axis=1), "a box without positive width and height (x1 y1 x2 y2)", box),
        (np.isin(visibility_NK, (0, 1, 2)), "a visibility other than 0, 1 and 2", visibility_NK),
        ((class_N >= 0) & (class_N < classes), f"a class outside 0..{classes - 1}", class_N),
        (np.isnan(area_N) | ((area_N >= 0) & np.isfinite(area_N)), "a negative or infinite area", area_N),
        (ignore_N | ~people.crowd_N, "a crowd that is not ignored", None),
        (ignore_N | has_labelled_N, "no labelled keypoint, but not ignored", None),
    )
    for good, fault, values in rules:
        if not good.all():
            person, *keypoint = first = tuple(np.argwhere(~good)[0])
            who = ", ".join([f"person {person}", *(skeleton.names[index] for index in keypoint)])
            found = "" if values is None else f", found {_listed(values[first])}"
            raise DataError(f"{where}: {who}: {fault}{found}; correct the label")


def _listed(numbers: NDArray[Any]) -> str:
    return " ".join(f"{number:g}" for number in np.atleast_1d(numbers))
