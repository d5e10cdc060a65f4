"""A validator that reports PCK by a length and at thresholds of one's choice, for each keypoint, with a figure."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np

from raypose.errors import ConfigError
from raypose.evaluate.coco import BOX_MAX_DETECTIONS
from raypose.evaluate.figure import Figure
from raypose.evaluate.matching import compare_boxes
from raypose.evaluate.pck import HEAD, TORSO, answers, box_side, distances, named_pair, normalise, pck_curve, span
from raypose.evaluate.records import Float64Array, Truth, collect
from raypose.evaluate.validators.protocol import Context, Findings
from raypose.structures import ImageResult, Skeleton

_ENDS: dict[str, tuple[tuple[str, str], ...]] = {"box": (), "torso": TORSO, "head": HEAD}
"""Between which keypoints a length is measured: the first pair that the skeleton has."""


class PckReport:
    """PCK at each of `thresholds`, its mean (`auc`), and of each keypoint at the last threshold.

    `normaliser` is `box` (the longer side), `torso`, `head`, or the names of two keypoints. People in whom it has no
    length, because an end of it is not labelled, are left out.
    """

    def __init__(self, normaliser: str | Sequence[str] = "box", thresholds: Sequence[float] = (0.05, 0.1, 0.2)) -> None:
        if not thresholds or any(not threshold > 0 for threshold in thresholds):
            raise ConfigError(f"thresholds are {list(thresholds)}, expected positive numbers")
        named = isinstance(normaliser, str) and normaliser in _ENDS
        if not named and (isinstance(normaliser, str) or len(normaliser) != 2):
            raise ConfigError(f"normaliser is {normaliser!r}, expected box, torso, head or the names of two keypoints")
        self._label = str(normaliser) if named else " to ".join(normaliser)
        self._ends = _ENDS[self._label] if named else ((str(normaliser[0]), str(normaliser[1])),)
        self._thresholds_X = np.sort(np.array(thresholds, np.float64))

    def __call__(self, results: Iterator[ImageResult], context: Context) -> Findings:
        skeleton = context.skeleton
        truth, found = collect(list(results), skeleton, len(context.class_names))
        _, answer_M = answers(compare_boxes(truth, found, BOX_MAX_DETECTIONS))
        length_M = self._length(truth, skeleton)
        relative_MK = normalise(distances(truth, found, answer_M), length_M)
        counted_MK = truth.labelled() & (~truth.ignore_pose_M & (length_M > 0))[:, None]
        pck_X = pck_curve(relative_MK, counted_MK, self._thresholds_X)
        pck_KX = np.array(
            [
                pck_curve(relative_M, counted_M, self._thresholds_X)
                for relative_M, counted_M in zip(relative_MK.T, counted_MK.T, strict=True)
            ]
        )
        return Findings(
            {
                **{f"pck_{threshold:g}": float(pck) for threshold, pck in zip(self._thresholds_X, pck_X, strict=True)},
                "auc": float(pck_X.mean()),
                **{name: float(pck) for name, pck in zip(skeleton.names, pck_KX[:, -1], strict=True)},
            },
            (Figure(f"PCK of each keypoint, by {self._label}", self._draw(pck_KX, skeleton)),),
        )

    def _length(self, truth: Truth, skeleton: Skeleton) -> Float64Array:
        if self._label == "box":
            return box_side(truth)
        ends = named_pair(skeleton, self._ends)
        if ends is None:
            raise ConfigError(f"pck_report: the skeleton has no {self._label}; it has {', '.join(skeleton.names)}")
        return span(truth, ends)

    def _draw(self, pck_KX: Float64Array, skeleton: Skeleton) -> bytes:
        from matplotlib.figure import Figure as Canvas  # takes a second, which other validations should not cost

        canvas = Canvas(figsize=(7, 4), layout="constrained")
        axes = canvas.subplots()
        for name, pck_X in zip(skeleton.names, pck_KX, strict=True):
            axes.plot(self._thresholds_X, pck_X, marker="o", markersize=3, label=name.replace("_", " "))
        axes.set(xlabel=f"threshold, share of the {self._label}", ylabel="PCK", ylim=(0, 1))
        axes.legend(fontsize=7, ncols=2, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        image = io.BytesIO()
        canvas.savefig(image, format="png", dpi=150)
        return image.getvalue()
