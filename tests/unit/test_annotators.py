"""Sigmas from the disagreement of annotators."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from raypose.cli.data.sigmas import sigmas as sigmas_command
from raypose.errors import DataError
from raypose.evaluate.annotators import estimate_sigmas
from raypose.evaluate.coco_files import Annotations, read_annotations
from tests.coco_problems import Json, write

SIGMAS_K = np.array([0.02, 0.05, 0.1])


def labelled(people: list[Json], names: tuple[str, ...] = ("a", "b", "c")) -> Json:
    images = [{"id": identity} for identity in {person["image_id"] for person in people}]
    return {"images": images, "annotations": people, "categories": [{"id": 1, "keypoints": list(names)}]}


def person(identity: int, image: int, xyv_K3: np.ndarray, box: tuple[float, ...] = (0, 0, 10, 10)) -> Json:
    return {
        "id": identity, "image_id": image, "category_id": 1, "bbox": list(box), "area": box[2] * box[3], "iscrowd": 0,
        "keypoints": xyv_K3.ravel().tolist(), "num_keypoints": int((xyv_K3[:, 2] > 0).sum()),
    }  # fmt: skip


def written(folder: Path, *truths: Json) -> list[Path]:
    places = [folder / str(number) for number in range(len(truths))]
    for place in places:
        place.mkdir()
    return [write(place, truth, [])[1] for place, truth in zip(places, truths, strict=True)]


def read(folder: Path, *truths: Json) -> list[Annotations]:
    return [read_annotations(path) for path in written(folder, *truths)]


def test_sigma_squared_is_half_the_mean_squared_distance_over_the_area(tmp_path: Path) -> None:
    # Area 100. The first keypoint is 3 and 4 px apart: 25 / 100 = .25. The second agrees. The third only one labelled.
    one = person(1, 1, np.array([[1, 1, 2], [5, 5, 2], [9, 9, 2]]))
    two = person(1, 1, np.array([[4, 5, 1], [5, 5, 2], [0, 0, 0]]))
    estimate = estimate_sigmas(read(tmp_path, labelled([one]), labelled([two])))
    assert estimate.sigma_K[:2] == pytest.approx([math.sqrt(0.25 / 2), 0])
    assert math.isnan(estimate.sigma_K[2])
    assert estimate.pairs_K.tolist() == [1, 1, 0]


def noisy_annotators(annotators: int) -> list[Json]:
    """People of many sizes, two in an image, labelled by each annotator with errors of SIGMAS_K times their scale."""
    rng = np.random.default_rng(1)
    labellings: list[list[Json]] = [[] for _ in range(annotators)]
    for number in range(600):
        side = float(rng.uniform(20, 300))
        corner = 400.0 * (number % 2)
        where_K2 = corner + rng.uniform(0, side, (3, 2))
        # d² of a label has the mean sigma² · s², half of it along each axis.
        for labels in labellings:
            label_K2 = where_K2 + rng.normal(0, 1, (3, 2)) * side * SIGMAS_K[:, None] / math.sqrt(2)
            xyv_K3 = np.column_stack([label_K2, np.full(3, 2)])
            labels.append(person(number + 1, number // 2, xyv_K3, (corner, corner, side, side)))
    return [labelled(people) for people in labellings]


@pytest.mark.parametrize("annotators", [2, 3])
def test_known_errors_of_annotators_are_found_again(tmp_path: Path, annotators: int) -> None:
    estimate = estimate_sigmas(read(tmp_path, *noisy_annotators(annotators)))
    assert estimate.sigma_K == pytest.approx(SIGMAS_K, rel=0.1)  # four standard deviations of 600 pairs
    assert estimate.people == 600 * annotators * (annotators - 1) / 2


def test_the_command_prints_sigmas_for_dataset_yaml(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(sigmas_command)
    paths = written(tmp_path, *noisy_annotators(2))
    printed = CliRunner().invoke(app, [str(path) for path in paths], catch_exceptions=False).stdout
    assert printed.splitlines()[-1].startswith("sigmas: [0.0")
    assert "600 pairs of labels" in printed


def test_labels_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    here = labelled([person(1, 1, np.full((3, 3), 2.0))])
    elsewhere = labelled([person(1, 2, np.full((3, 3), 2.0))])
    other = labelled([person(1, 1, np.full((3, 3), 2.0))], ("a", "b", "z"))
    first, second, third = read(tmp_path, here, elsewhere, other)
    with pytest.raises(DataError, match="no two annotators labelled the same person"):
        estimate_sigmas([first, second])
    with pytest.raises(DataError, match="has keypoints a, b, z, another a, b, c"):
        estimate_sigmas([first, third])
    with pytest.raises(DataError, match="one labelling does not tell"):
        sigmas_command([tmp_path / "one.json"])
