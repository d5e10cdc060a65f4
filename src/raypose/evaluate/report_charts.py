"""The charts of a report, each under its heading."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from raypose.evaluate.calibration import KEYPOINT_THRESHOLD, Calibration
from raypose.evaluate.fit import column, losses_of
from raypose.evaluate.pck import ROW_THRESHOLD, KeypointRow
from raypose.evaluate.run import Evaluation
from raypose.pages.charts import Bars, Line, bar_chart, line_chart
from raypose.pages.svg import Range

Chart = tuple[str, Markup]

_UNIT: Range = (0.0, 1.0)
_VALIDATION_CURVES = (("val/pose_ap", "pose AP"), ("val/pose_ap50", "pose AP50"), ("val/box_ap", "box AP"))
_COMPARED = (
    ("pose_ap", "pose AP"),
    ("pose_ap50", "pose AP50"),
    ("pose_ap75", "pose AP75"),
    ("box_ap", "box AP"),
    ("pck_box_10", "PCK, .10 of box"),
)
_MOST_POINTS = 150
"""Points of a curve of losses; of more rows, neighbours are averaged."""
_LOSS_NAMES = {
    "train/box_loss": "Box loss",
    "train/pose_loss": "Pose loss",
    "train/kobj_loss": "Keypoint confidence loss",
    "train/cls_loss": "Class loss",
    "train/dfl_loss": "Box distribution loss",
    "train/rle_loss": "Keypoint likelihood loss",
}


def course_charts(
    epochs: Sequence[Mapping[str, Any]], trained: Mapping[str, float] | None, unseen: Mapping[str, float]
) -> list[Chart]:
    """Validation metrics by epoch and, where both are known, training against validation images at the end."""
    charts = []
    scores = [
        Line(name, _epochs(epochs), column(epochs, key), tone)
        for tone, (key, name) in enumerate(_VALIDATION_CURVES, start=1)
        if any(key in row for row in epochs)
    ]
    if scores and len(epochs) > 1:
        charts.append(("Validation by epoch", _by_epoch(scores, "AP", top=1.0, mark=_best_epoch(epochs))))
    if trained is not None:
        bars = [
            Bars("training images", [trained.get(key, math.nan) for key, _ in _COMPARED], 2),
            Bars("validation images", [unseen.get(key, math.nan) for key, _ in _COMPARED], 1),
        ]
        rows = [name for _, name in _COMPARED]
        charts.append(("Images seen and unseen", bar_chart(rows, bars, x_label="best checkpoint", x_range=_UNIT)))
    return charts


def loss_charts(history: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Every training loss and learning rate, from the rows of steps where there are some, else from those of epochs."""
    steps = [row for row in history if row.get("kind") == "train"]
    rows = _thinned(steps or [row for row in history if "epoch" in row])
    if not rows:
        return []
    x = _epochs(rows)
    charts = [
        (
            _LOSS_NAMES.get(key, key.removeprefix("train/").replace("_", " ")),
            _by_epoch([Line(key, x, column(rows, key))], "loss"),
        )
        for key in losses_of(rows)
    ]
    rates = sorted({key for row in rows for key in row if key.startswith("lr/")})
    if rates:
        lines = [
            Line(key.removeprefix("lr/"), x, [1000 * rate for rate in column(rows, key)], 1 + index % 5)
            for index, key in enumerate(rates)
        ]
        charts.append(("Learning rate", _by_epoch(lines, "learning rate × 1000")))
    return charts


def _thinned(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of one place each, at most `_MOST_POINTS` of them, their losses and rates averaged."""
    together = -(-len(rows) // _MOST_POINTS) if rows else 1
    if together == 1:
        return list(rows)
    thinned: list[Mapping[str, Any]] = []
    for start in range(0, len(rows), together):
        near = rows[start : start + together]
        keys = [key for key in near[-1] if key.startswith(("train/", "lr/")) or key == "epoch"]
        thinned.append({key: float(np.nanmean(column(near, key))) for key in keys})
    return thinned


def detection_charts(evaluation: Evaluation) -> list[Chart]:
    """Precision, recall and confidence of people."""
    curves, by_confidence = evaluation.curves, evaluation.curves.by_confidence
    recall = curves.recall_R.tolist()
    # Interpolated precision is zero behind the last recall that was reached: end the curve there.
    reached_TR = np.where(curves.precision_TR > 0, curves.precision_TR, np.nan)
    precision = [
        Line(f"OKS {curves.threshold_T[t]:.2f}", recall, reached_TR[t].tolist(), tone)
        for tone, t in enumerate((0, 5, 8), start=1)
    ]
    confidence = by_confidence.confidence_X.tolist()
    rates = [
        Line("precision", confidence, by_confidence.precision_X.tolist(), 1),
        Line("recall", confidence, by_confidence.recall_X.tolist(), 2),
        Line("F1", confidence, by_confidence.f1_X.tolist(), 3),
    ]
    best = by_confidence.best_confidence
    mark = (best, f"best F1 {by_confidence.best_f1:.2f} at {best:.2f}")
    return [
        ("Precision against recall", _unit_chart(precision, "recall", "precision")),
        ("Choosing a confidence threshold, OKS 0.50", _unit_chart(rates, "confidence", "rate", mark)),
    ]


def calibration_charts(evaluation: Evaluation) -> list[Chart]:
    """Whether confidence can be taken at its word, for people and keypoints."""
    people, keypoints = evaluation.curves.person_calibration, evaluation.curves.keypoint_calibration
    return [
        (f"People: right at OKS 0.50{_error(people)}", _reliability(people, "people")),
        (
            f"Keypoints: right within {KEYPOINT_THRESHOLD:.2f} of the box{_error(keypoints)}",
            _reliability(keypoints, "keypoints"),
        ),
    ]


def keypoint_charts(evaluation: Evaluation) -> list[Chart]:
    """How often and how far each keypoint is off."""
    rows = evaluation.per_keypoint
    names = [row.name for row in rows]
    pck = _by_visibility(rows, "pck_visible", "pck_occluded")
    error = _by_visibility(rows, "error_visible_px", "error_occluded_px")
    return [
        (
            f"PCK, within {ROW_THRESHOLD:.2f} of the box",
            bar_chart(names, pck, x_label="share of labelled keypoints", x_range=_UNIT),
        ),
        ("Mean error", bar_chart(names, error, x_label="pixels", decimals=1)),
    ]


def error_charts(evaluation: Evaluation) -> list[Chart]:
    """How frequent each kind of error is, and what it costs."""
    kinds = evaluation.error_kinds
    names = [kind.name for kind in kinds]
    shares = Bars("share", [100 * kind.share for kind in kinds], 4)
    costs = Bars("cost", [kind.ap_gain for kind in kinds], 2)
    return [
        (
            "How frequent they are",
            bar_chart(names, [shares], x_label="% of the keypoints of people who were found", decimals=1),
        ),
        ("What they cost", bar_chart(names, [costs], x_label="pose AP gained if these were right", decimals=3)),
    ]


def pck_chart(evaluation: Evaluation) -> Chart:
    """PCK for every threshold."""
    curves = evaluation.curves
    line = Line("all keypoints", curves.pck_threshold_X.tolist(), curves.pck_X.tolist(), 1)
    x_label = "threshold, share of the box side"
    return (
        "PCK against its threshold",
        line_chart([line], x_label=x_label, y_label="PCK", x_range=(0.0, 0.2), y_range=_UNIT),
    )


def _error(calibration: Calibration) -> str:
    return "" if math.isnan(calibration.error) else f", error {calibration.error:.3f}"


def _reliability(calibration: Calibration, what: str) -> Markup:
    filled_B = calibration.count_B > 0
    lines = [
        Line("perfect", [0.0, 1.0], [0.0, 1.0], 0, dashed=True),
        Line(what, calibration.confidence_B[filled_B].tolist(), calibration.right_B[filled_B].tolist(), 1),
    ]
    return _unit_chart(lines, "confidence", "share that is right")


def _unit_chart(lines: Sequence[Line], x_label: str, y_label: str, mark: tuple[float, str] | None = None) -> Markup:
    return line_chart(lines, x_label=x_label, y_label=y_label, x_range=_UNIT, y_range=_UNIT, mark=mark)


def _by_epoch(
    lines: Sequence[Line], y_label: str, *, top: float | None = None, mark: tuple[float, str] | None = None
) -> Markup:
    x = lines[0].x
    span = (min(x), max(x)) if len(x) > 1 else (x[0] - 1, x[0] + 1)
    y_range = None if top is None else (0.0, top)
    return line_chart(lines, x_label="epoch", y_label=y_label, x_range=span, y_range=y_range, whole_x=True, mark=mark)


def _best_epoch(epochs: Sequence[Mapping[str, Any]]) -> tuple[float, str] | None:
    ap = column(epochs, "val/pose_ap")
    finite = [index for index, value in enumerate(ap) if math.isfinite(value)]
    if not finite:
        return None
    best = max(finite, key=lambda index: ap[index])
    return float(epochs[best]["epoch"]), f"best pose AP {ap[best]:.3f}"


def _epochs(epochs: Sequence[Mapping[str, Any]]) -> list[float]:
    return [float(row["epoch"]) for row in epochs]


def _by_visibility(rows: Sequence[KeypointRow], visible: str, occluded: str) -> list[Bars]:
    bars = [Bars("visible", [getattr(row, visible) for row in rows], 1)]
    if any(row.occluded for row in rows):
        bars.append(Bars("occluded", [getattr(row, occluded) for row in rows], 2))
    return bars
