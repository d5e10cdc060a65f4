"""One self-contained HTML page about a run or a validation: figures, curves, keypoints and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from raypose.evaluate.pck import ROW_THRESHOLD, KeypointRow
from raypose.evaluate.run import Evaluation
from raypose.pages import data_uri, render_page
from raypose.pages.charts import Bars, Line, bar_chart, line_chart

_KEY_FIGURES = (
    ("pose_ap", "Pose AP", "COCO, OKS .50 to .95"),
    ("pose_ap50", "AP50", "OKS .50"),
    ("pose_ap75", "AP75", "OKS .75"),
    ("pose_ar", "AR", "20 detections"),
    ("box_ap", "Box AP", "IoU .50 to .95"),
    ("f1", "Best F1", "OKS .50"),
    ("pck_box_10", "PCK", "within .10 of box"),
    ("keypoint_error_px", "Error", "mean pixels"),
)
_VALIDATION_CURVES = (("val/pose_ap", "pose AP"), ("val/pose_ap50", "pose AP50"), ("val/box_ap", "box AP"))
_OVERFIT_DROP = 0.01
"""AP lost since the best epoch from which a run with falling training loss is called overfitted."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A validation image drawn twice, as encoded PNG or JPEG bytes: as labelled and as predicted."""

    caption: str
    labelled: bytes
    predicted: bytes


@dataclass(frozen=True, slots=True)
class ReportInput:
    """What a page shows. Everything but the title may be left out, and its section is then missing.

    `history` are rows as `metrics.jsonl` holds them: `epoch`, `train/<loss>`, `val/<metric>`, `lr/<group>`; rows with
    validation metrics make the curves. `facts` are settings worth seeing, in order.
    """

    title: str
    subtitle: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    history: Sequence[Mapping[str, Any]] = ()
    pictures: Sequence[Picture] = ()


def write_report(run: ReportInput, out: Path) -> Path:
    """Write `out`/index.html and return its path. Raises DataError for a picture that is no PNG or JPEG."""
    out.mkdir(parents=True, exist_ok=True)
    page = out / "index.html"
    page.write_text(render_report(run), encoding="utf-8")
    return page


def render_report(run: ReportInput) -> str:
    """The page as text."""
    evaluation = run.evaluation
    epochs = [row for row in run.history if any(key.startswith("val/") for key in row)]
    return render_page(
        "raypose.evaluate",
        "report.html.j2",
        eyebrow="raypose report",
        title=run.title,
        subtitle=run.subtitle,
        facts=run.facts,
        filters={"figure": _figure},
        notes=[] if evaluation is None else evaluation.notes,
        key_figures=[] if evaluation is None else _key_figures(evaluation.metrics),
        training=_training_charts(epochs),
        fit=describe_fit(epochs),
        detection=[] if evaluation is None else _detection_charts(evaluation),
        keypoints=[] if evaluation is None else _keypoint_charts(evaluation),
        keypoint_rows=[] if evaluation is None else [asdict(row) for row in evaluation.per_keypoint],
        class_rows=[] if evaluation is None else [asdict(row) for row in evaluation.per_class],
        metrics={} if evaluation is None else evaluation.metrics,
        pictures=[
            (picture.caption, data_uri(picture.labelled, picture.caption), data_uri(picture.predicted, picture.caption))
            for picture in run.pictures
        ],
    )


def describe_fit(epochs: Sequence[Mapping[str, Any]]) -> str:
    """One sentence about over- or underfitting, from validation AP and training loss; empty for under 3 epochs."""
    ap = _column(epochs, "val/pose_ap")
    measured = [index for index, value in enumerate(ap) if math.isfinite(value)]
    if len(measured) < 3:
        return ""
    best, last = max(measured, key=lambda index: ap[index]), measured[-1]
    loss = [sum(_column([row], key)[0] for key in _losses(epochs)) for row in epochs]
    peak = f"Pose AP was best after epoch {epochs[best]['epoch']:g} ({ap[best]:.3f})"
    if last - best <= len(measured) // 10:
        return f"{peak}, at or near the end: the model was still improving, and more epochs may help."
    if ap[best] - ap[last] > _OVERFIT_DROP and loss[last] < loss[best]:
        return (
            f"{peak} and ended {ap[best] - ap[last]:.3f} lower while the training loss went on falling:"
            " the model overfits. Use the best checkpoint; more data or augmentation may help."
        )
    return f"{peak} and ended at {ap[last]:.3f}: it has levelled off."


def _key_figures(metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
    return [
        (label, _figure(metrics[name], "px" if name.endswith("_px") else ""), detail)
        for name, label, detail in _KEY_FIGURES
    ]


def _training_charts(epochs: Sequence[Mapping[str, Any]]) -> list[tuple[str, Markup]]:
    if not epochs:
        return []
    x = [float(row["epoch"]) for row in epochs]
    span = (min(x), max(x)) if len(x) > 1 else (x[0] - 1, x[0] + 1)

    def chart(lines: list[Line], y_label: str, top: float | None = None) -> Markup:
        y_range = None if top is None else (0.0, top)
        return line_chart(lines, x_label="epoch", y_label=y_label, x_range=span, y_range=y_range, whole_x=True)

    scores = [
        Line(name, x, _column(epochs, key), tone)
        for tone, (key, name) in enumerate(_VALIDATION_CURVES, start=1)
        if key in epochs[-1]
    ]
    charts = [("Validation", chart(scores, "AP", top=1.0))] if scores else []
    losses = _losses(epochs)
    if losses:
        total = [sum(values) for values in zip(*(_column(epochs, key) for key in losses), strict=True)]
        charts.append(("Training loss, all parts", chart([Line("sum", x, total, 1)], "loss")))
    for key in losses:
        name = key.removeprefix("train/")
        lines = [Line("training", x, _column(epochs, key), 1)]
        if f"val/{name}" in epochs[-1]:
            lines.append(Line("validation", x, _column(epochs, f"val/{name}"), 2))
        charts.append((name.replace("_", " "), chart(lines, "loss")))
    rates = sorted({key for row in epochs for key in row if key.startswith("lr/")})
    if rates:
        lines = [
            Line(key.removeprefix("lr/"), x, [1000 * rate for rate in _column(epochs, key)], 1 + i % 5)
            for i, key in enumerate(rates)
        ]
        charts.append(("Learning rate", chart(lines, "learning rate × 1000")))
    return charts


def _detection_charts(evaluation: Evaluation) -> list[tuple[str, Markup]]:
    curves, by_confidence = evaluation.curves, evaluation.curves.by_confidence
    unit = (0.0, 1.0)
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
    return [
        (
            "Precision against recall",
            line_chart(precision, x_label="recall", y_label="precision", x_range=unit, y_range=unit),
        ),
        (
            "Choosing a confidence threshold, OKS 0.50",
            line_chart(
                rates,
                x_label="confidence",
                y_label="rate",
                x_range=unit,
                y_range=unit,
                mark=(best, f"best F1 {by_confidence.best_f1:.2f} at {best:.2f}"),
            ),
        ),
    ]


def _keypoint_charts(evaluation: Evaluation) -> list[tuple[str, Markup]]:
    rows, curves = evaluation.per_keypoint, evaluation.curves
    names = [row.name for row in rows]
    pck = _by_visibility(rows, "pck_visible", "pck_occluded")
    error = _by_visibility(rows, "error_visible_px", "error_occluded_px")
    kinds = [kind.name for kind in evaluation.error_kinds]
    costs = Bars("AP", [kind.ap_gain for kind in evaluation.error_kinds], 3)
    shares = Bars("share", [kind.share for kind in evaluation.error_kinds], 4)
    share = Line("all keypoints", curves.pck_threshold_X.tolist(), curves.pck_X.tolist(), 1)
    return [
        (
            f"PCK, within {ROW_THRESHOLD:.2f} of the box",
            bar_chart(names, pck, x_label="share of labelled keypoints", x_range=(0.0, 1.0)),
        ),
        ("Mean error", bar_chart(names, error, x_label="pixels", decimals=1)),
        (
            "PCK against its threshold",
            line_chart(
                [share], x_label="threshold, share of the box side", y_label="PCK", x_range=(0.0, 0.2), y_range=(0, 1)
            ),
        ),
        (
            "Kinds of error",
            bar_chart(kinds, [shares, costs], x_label="share of found keypoints; pose AP it costs", decimals=3),
        ),
    ]


def _by_visibility(rows: Sequence[KeypointRow], visible: str, occluded: str) -> list[Bars]:
    bars = [Bars("visible", [getattr(row, visible) for row in rows], 1)]
    if any(row.occluded for row in rows):
        bars.append(Bars("occluded", [getattr(row, occluded) for row in rows], 2))
    return bars


def _losses(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in epochs for key in row if key.startswith("train/")))


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The values of `key`, NaN where a row lacks it or holds None."""
    values = (row.get(key) for row in rows)
    return [math.nan if value is None else float(value) for value in values]


def _figure(value: float, unit: str = "") -> str:
    """A number as people read it: counts whole, pixels with one decimal, shares with three, a dash for undefined."""
    if not math.isfinite(value):
        return "–"
    if unit == "px":
        return f"{value:.1f}"
    return f"{value:.0f}" if unit == "count" else f"{value:.3f}"
