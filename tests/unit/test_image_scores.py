"""Which images are called the best and the worst, and what is said to be wrong with them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypose.evaluate import evaluate
from raypose.structures import ImageResult, People, Poses, Skeleton

SKELETON = Skeleton(names=("head", "left", "right"), flip_pairs=((1, 2),), sigmas=(0.05, 0.05, 0.05))
SHAPE = np.array([(50, 10), (20, 80), (80, 80)], np.float32)
MIRRORED = SHAPE[[0, 2, 1]]


def moved(xy_K2: np.ndarray, at: int) -> np.ndarray:
    return xy_K2 + np.array([200 * at, 0], np.float32)


def image(
    identity: str,
    labelled: list[int],
    predicted: list[tuple[int, np.ndarray, float]],
    *,
    ignored: bool = False,
    classes: tuple[list[int], list[int]] | None = None,
) -> ImageResult:
    """People stand 200 px apart, at these places; predictions are (place, keypoints, score)."""
    class_N, class_P = classes or ([0] * len(labelled), [0] * len(predicted))
    people = People(
        np.array([(200 * at, 0, 200 * at + 100, 100) for at in labelled], np.float32).reshape(-1, 4),
        np.array([np.c_[moved(SHAPE, at), [2, 2, 2]] for at in labelled], np.float32).reshape(-1, 3, 3),
        np.array(class_N, np.int64),
        np.full(len(labelled), 1e4, np.float32),
        np.full(len(labelled), ignored),
        np.zeros(len(labelled), np.bool_),
    )
    poses = Poses(
        np.array([(200 * at, 0, 200 * at + 100, 100) for at, _, _ in predicted], np.float32).reshape(-1, 4),
        np.array([score for _, _, score in predicted], np.float32),
        np.array(class_P, np.int64),
        np.array([np.c_[moved(xy, at), [1, 1, 1]] for at, xy, _ in predicted], np.float32).reshape(-1, 3, 3),
    )
    return ImageResult(identity, 1000, 100, people, poses)


RESULTS = [
    image("perfect", [0, 1], [(0, SHAPE, 0.9), (1, SHAPE, 0.8)]),
    image("missed", [0, 1], [(0, SHAPE, 0.9)]),
    image("invented", [0], [(0, SHAPE, 0.9), (3, SHAPE, 0.85)]),
    image("mirrored", [0], [(0, MIRRORED, 0.95)]),
    image("empty", [], []),
    image("crowd", [0], [(0, SHAPE, 0.9)], ignored=True),
]


def test_images_are_ranked_by_how_well_people_were_found() -> None:
    images = evaluate(RESULTS, SKELETON, ["person"]).images
    assert [images.ids[i] for i in images.best(1)] == ["perfect"]
    assert [images.ids[i] for i in images.worst(3)] == ["mirrored", "invented", "missed"]
    score = dict(zip(images.ids, images.score_I, strict=True))
    assert score["perfect"] == pytest.approx(1)
    assert score["missed"] == pytest.approx(2 / 3)
    assert score["invented"] == pytest.approx(2 / 3)
    assert score["mirrored"] == pytest.approx(1 / 3)


def test_images_with_nothing_to_judge_are_neither_best_nor_worst() -> None:
    images = evaluate(RESULTS, SKELETON, ["person"]).images
    shown = {images.ids[i] for i in [*images.best(99), *images.worst(99)]}
    assert shown == {"perfect", "missed", "invented", "mirrored"}


def test_faults_are_counted_by_image() -> None:
    images = evaluate(RESULTS, SKELETON, ["person"]).images
    faults = {
        kind: {images.ids[i]: int(n) for i, n in enumerate(counts) if n} for kind, counts in images.faults().items()
    }
    assert faults == {
        "missed": {"missed": 1},
        "extra": {"invented": 1},
        "jitter": {},
        "inversion": {"mirrored": 2},
        "swap": {},
        "miss": {},
    }


def test_a_place_leads_back_to_what_was_evaluated() -> None:
    images = evaluate(RESULTS, SKELETON, ["person"]).images
    assert [RESULTS[place].id for place in images.place_I] == list(images.ids)


def test_predictions_below_the_working_confidence_do_not_count() -> None:
    sure = [image(f"{number}", [0], [(0, SHAPE, 0.9)]) for number in range(9)]
    images = evaluate(
        [*sure, image("unsure", [0], [(0, SHAPE, 0.1), (2, SHAPE, 0.1), (3, SHAPE, 0.1)])], SKELETON, ["person"]
    ).images
    assert images.confidence == pytest.approx(0.9)
    assert [images.ids[i] for i in images.worst(1)] == ["unsure"]
    assert images.extra_I.sum() == 0


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(len(RESULTS))))
def test_the_order_of_images_changes_no_score(order: list[int]) -> None:
    first = evaluate(RESULTS, SKELETON, ["person"]).images
    again = evaluate([RESULTS[i] for i in order], SKELETON, ["person"]).images
    assert again.ids == first.ids
    assert np.array_equal(again.score_I, first.score_I, equal_nan=True)


def test_classes_are_confused_where_one_answers_for_another() -> None:
    results = [
        image("a", [0, 1, 2], [(0, SHAPE, 0.9), (1, SHAPE, 0.9), (4, SHAPE, 0.9)], classes=([0, 1, 1], [0, 0, 1])),
    ]
    evaluation = evaluate(results, SKELETON, ["person", "robot"])
    assert evaluation.confusion_CC.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]


def test_confusion_adds_up_to_people_and_predictions_that_count() -> None:
    evaluation = evaluate(RESULTS, SKELETON, ["person"])
    assert evaluation.confusion_CC[:-1].sum() == evaluation.metrics["people"]
    assert evaluation.confusion_CC[:, :-1].sum() == 6
    assert "images" not in {field.name for field in dataclasses.fields(evaluation)} & evaluation.to_dict().keys()
