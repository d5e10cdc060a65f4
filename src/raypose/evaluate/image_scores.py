"""How well each single image went, so that the best and the worst can be shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raypose.evaluate.curves import ConfidenceCurves
from raypose.evaluate.matching import Pairs, oks
from raypose.evaluate.records import Float64Array, Found, Truth
from raypose.structures import BoolArray, IntArray

USUAL_CONFIDENCE = 0.25
"""Confidence from which a prediction is looked at where no confidence has a best F1."""


@dataclass(frozen=True, slots=True)
class ImageScores:
    """A row for each image, in the order of their ids, from predictions of at least `confidence`.

    The score is 2 · ΣOKS / (people + predictions), 1 where every person is found exactly and nobody else is, NaN where
    there is neither person nor prediction. People are paired with predictions by box, as for PCK; OKS is that
    of each pair. `wrong_I` counts, for each kind of error, the keypoints of people who were found. `place_I` is where
    an image stood in what was evaluated.
    """

    ids: tuple[str, ...]
    place_I: IntArray
    confidence: float
    score_I: Float64Array
    people_I: IntArray
    missed_I: IntArray
    extra_I: IntArray
    wrong_I: Mapping[str, IntArray]

    def __len__(self) -> int:
        return len(self.ids)

    def worst(self, count: int) -> list[int]:
        """The images of lowest score, the lowest first; of equals, those with most wrong."""
        wrong_I = np.sum(list(self.faults().values()), axis=0)
        order = np.lexsort((-wrong_I, self.score_I))
        return [int(image) for image in order[:count] if math.isfinite(self.score_I[image])]

    def best(self, count: int) -> list[int]:
        """The images of highest score that show labelled people, the highest first."""
        order = np.argsort(np.where(self.people_I > 0, -self.score_I, np.inf), kind="stable")
        return [int(image) for image in order[:count] if self.people_I[image]]

    def faults(self) -> dict[str, IntArray]:
        """For each kind of fault how often it occurs in each image: people missed and invented, keypoints by error."""
        return {"missed": self.missed_I, "extra": self.extra_I, **self.wrong_I}


def working_confidence(by_confidence: ConfidenceCurves) -> float:
    """The confidence with the best F1; 0.25 where there is none."""
    best = by_confidence.best_confidence
    return USUAL_CONFIDENCE if math.isnan(best) else best


def image_scores(
    truth: Truth,
    found: Found,
    person_P: IntArray,
    kinds_PK: Mapping[str, BoolArray],
    *,
    ids: Sequence[str],
    sigmas_K: Float64Array,
    confidence: float,
) -> ImageScores:
    """Score every image. `ids` are as they came; `person_P` is the person each prediction answers for, -1 for none."""
    images = len(ids)
    spared_P = np.append(truth.ignore_pose_M, False)[person_P]
    kept_P = (found.score_P >= confidence) & ~spared_P
    answering = np.flatnonzero(kept_P & (person_P >= 0))
    pairs = Pairs(answering, answering, person_P[answering], np.zeros_like(answering))

    def count(image: IntArray) -> IntArray:
        return np.bincount(image, minlength=images)

    image_Q = found.image_P[answering]
    people_I, kept_I, answered_I = (
        count(truth.image_M[~truth.ignore_pose_M]),
        count(found.image_P[kept_P]),
        count(image_Q),
    )
    oks_I = np.bincount(image_Q, oks(truth, found, pairs, sigmas_K), minlength=images)
    labelled_QK = truth.labelled()[pairs.truth_Q]
    both_I = people_I + kept_I
    return ImageScores(
        ids=tuple(sorted(ids)),
        place_I=np.array(sorted(range(images), key=lambda place: ids[place]), np.int64),
        confidence=confidence,
        score_I=np.divide(2 * oks_I, both_I, out=np.full(images, np.nan), where=both_I > 0),
        people_I=people_I,
        missed_I=people_I - answered_I,
        extra_I=kept_I - answered_I,
        wrong_I={
            kind: count(np.repeat(image_Q, (kind_PK[answering] & labelled_QK).sum(axis=1)))
            for kind, kind_PK in kinds_PK.items()
        },
    )
