"""A validator that fails the run when a named keypoint gets worse than it was, or than it may be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from raypose.errors import ConfigError, ValidatorError
from raypose.evaluate.coco import BOX_MAX_DETECTIONS
from raypose.evaluate.matching import compare_boxes
from raypose.evaluate.pck import answers, box_side, distances, normalise, pck_curve
from raypose.evaluate.records import collect
from raypose.evaluate.validators.protocol import Context
from raypose.structures import ImageResult


@dataclass(frozen=True, slots=True)
class KeypointGuard:
    """PCK of one keypoint; at most `max_drop` lower than at the best checkpoint so far, and never below `at_least`.

    A keypoint is right `within` that fraction of the longer side of the box.
    """

    keypoint: str
    max_drop: float = 0.05
    at_least: float = 0.0
    within: float = 0.1

    def __call__(self, results: Iterator[ImageResult], context: Context) -> dict[str, float]:
        pck = self._pck(results, context)
        if math.isnan(pck):
            raise ValidatorError(
                f"keypoint_guard: {self.keypoint} is labelled in nobody of the validation set, so nothing is guarded;"
                " guard another keypoint, or label it"
            )
        best = context.earlier.get("pck", math.nan)
        if pck < best - self.max_drop:
            raise ValidatorError(
                f"keypoint_guard: {self.keypoint} has PCK {pck:.3f}, and had {best:.3f} at the best checkpoint;"
                f" a drop of {self.max_drop:g} is allowed. Use the best checkpoint, or raise max_drop"
            )
        if pck < self.at_least:
            raise ValidatorError(
                f"keypoint_guard: {self.keypoint} has PCK {pck:.3f}, expected at least {self.at_least:g};"
                " look at its labels, or lower at_least"
            )
        return {"pck": pck}

    def _pck(self, results: Iterator[ImageResult], context: Context) -> float:
        names = context.skeleton.names
        if self.keypoint not in names:
            raise ConfigError(f"keypoint_guard: no keypoint {self.keypoint!r}; the skeleton has {', '.join(names)}")
        truth, found = collect(list(results), context.skeleton, len(context.class_names))
        _, answer_M = answers(compare_boxes(truth, found, BOX_MAX_DETECTIONS))
        by_box_MK = normalise(distances(truth, found, answer_M), box_side(truth))
        counted_MK = truth.labelled() & ~truth.ignore_pose_M[:, None]
        k = names.index(self.keypoint)
        return float(pck_curve(by_box_MK[:, k], counted_MK[:, k], np.array([self.within]))[0])
