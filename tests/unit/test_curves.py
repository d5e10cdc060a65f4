"""Precision, recall and F1 against confidence, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raypose.evaluate import evaluate
from raypose.evaluate.curves import ConfidenceCurves
from raypose.structures import ImageResult, People, Poses, Skeleton

SKELETON = Skeleton(names=("a", "b"), sigmas=(0.05, 0.05))
BOX = (10.0, 10.0, 110.0, 110.0)


def image(identity: str, scores: list[tuple[float, bool]], people: int = 1, ignore: bool = False) -> ImageResult:
    """Predictions of one image: their score, and whether they hit the person."""
    hit, miss = ((20, 20, 2), (90, 90, 2)), ((400, 400, 2), (470, 470, 2))
    return ImageResult(
        identity,
        640,
        640,
        People(
            np.tile(np.array(BOX, np.float32), (people, 1)),
            np.tile(np.array(hit, np.float32), (people, 1, 1)),
            np.zeros(people, np.int64),
            np.full(people, np.nan, np.float32),
            np.full(people, ignore),
            np.zeros(people, np.bool_),
        ),
        Poses(
            np.tile(np.array(BOX, np.float32), (len(scores), 1)),
            np.array([score for score, _ in scores], np.float32),
            np.zeros(len(scores), np.int64),
            np.array([hit if right else miss for _, right in scores], np.float32).reshape(-1, 2, 3),
        ),
    )


def curves(*images: ImageResult) -> ConfidenceCurves:
    return evaluate(images, SKELETON, ["person"]).curves.by_confidence


def at(confidence: float) -> int:
    return round(confidence * 100)


def test_best_f1_is_found_among_the_scores_that_occur() -> None:
    # Three people. Kept at >= .8: 1 hit of 1, F1 = 2/(1+3) = .5. At >= .6: 2 of 2, F1 = 4/5. At >= .4: 2 of 3, 4/6.
    # At >= .2: 2 of 4, F1 = 4/7.
    found = curves(image("1", [(0.8, True), (0.4, False)]), image("2", [(0.6, True)]), image("3", [(0.2, False)]))
    assert found.best_confidence == pytest.approx(0.6)
    assert (found.best_precision, found.best_recall, found.best_f1) == pytest.approx((1.0, 2 / 3, 0.8))
    assert found.precision_X[at(0.3)] == pytest.approx(2 / 3)
    assert found.recall_X[at(0.3)] == pytest.approx(2 / 3)
    assert found.f1_X[at(0.3)] == pytest.approx(2 / 3)
    assert found.recall_X[at(0.9)] == 0
    assert math.isnan(found.precision_X[at(0.9)])


def test_predictions_of_equal_score_stay_or_go_together() -> None:
    # Hit and miss both have .5: no threshold keeps only the hit, so the best precision is 1/2.
    found = curves(image("1", [(0.5, True)]), image("2", [(0.5, False)]))
    assert (found.best_precision, found.best_recall) == (0.5, 0.5)


def test_ignored_people_and_those_who_hit_them_do_not_count() -> None:
    found = curves(image("1", [(0.9, True)], ignore=True), image("2", [(0.5, True)]))
    assert (found.best_precision, found.best_recall, found.best_confidence) == (1.0, 1.0, 0.5)


def test_no_predictions_mean_recall_and_f1_zero_and_no_precision() -> None:
    found = curves(image("1", []))
    assert (found.best_recall, found.best_f1) == (0, 0)
    assert math.isnan(found.best_precision)
    assert math.isnan(found.best_confidence)


def test_without_labelled_people_nothing_is_defined() -> None:
    evaluation = evaluate([image("1", [(0.5, True)], people=0)], SKELETON, ["person"])
    assert all(math.isnan(evaluation.metrics[name]) for name in ("pose_ap", "recall", "f1", "best_f1_conf", "pck_auc"))
    assert any("undefined" in note for note in evaluation.notes)
