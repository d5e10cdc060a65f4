"""Which class is taken for which, and which is missed or invented."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from raypose.evaluate.matching import compare_boxes
from raypose.evaluate.pck import answers
from raypose.evaluate.records import Found, Truth
from raypose.structures import IntArray


def confusion(truth: Truth, found: Found, *, classes: int, confidence: float) -> IntArray:
    """Counts by class as labelled (rows) and as predicted (columns); the last of both is nobody. Shape (C + 1, C + 1).

    Predictions of at least `confidence` answer for people by box, whatever the class; those that hit an ignored person
    are left out.
    """
    one_class = replace(truth, class_M=np.zeros_like(truth.class_M))
    # Whoever is less sure chooses later, and so takes nobody away from those that count.
    found = found.select(found.score_P >= confidence)
    person_P, _ = answers(compare_boxes(one_class, replace(found, class_P=np.zeros_like(found.class_P)), len(found)))
    kept_P = ~np.append(truth.ignore_pose_M, False)[person_P]
    answering = np.flatnonzero(kept_P & (person_P >= 0))
    invented_P = kept_P & (person_P < 0)
    missed_M = ~truth.ignore_pose_M
    missed_M[person_P[answering]] = False
    labelled = np.concatenate(
        [truth.class_M[person_P[answering]], truth.class_M[missed_M], np.full(invented_P.sum(), classes)]
    )
    predicted = np.concatenate([found.class_P[answering], np.full(missed_M.sum(), classes), found.class_P[invented_P]])
    side = classes + 1
    count_CC: IntArray = np.bincount(labelled * side + predicted, minlength=side * side).reshape(side, side)
    return count_CC
