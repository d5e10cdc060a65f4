"""One self-contained HTML page about a run or a validation: figures, curves, keypoints and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from raypose.evaluate import report_charts
from raypose.evaluate.fit import describe_course, describe_gap
from raypose.evaluate.run import COUNTS, Evaluation
from raypose.pages import data_uri, render_page

_KEY_FIGURES = (
    ("pose_ap", "Pose AP", "OKS .50 to .95"),
    ("pose_ap50", "AP50", "OKS .50"),
    ("pose_ap75", "AP75", "OKS .75"),
    ("pose_ar", "AR", "20 detections"),
    ("box_ap", "Box AP", "IoU .50 to .95"),
    ("f1", "Best F1", "OKS .50"),
    ("pck_box_10", "PCK", "within .10 of box"),
    ("keypoint_error_px", "Error", "mean pixels"),
)
_KIND_MEANINGS = {
    "jitter": "near its place, but not on it",
    "inversion": "on its mirror image in the same person: left and right exchanged",
    "swap": "on another person",
    "miss": "nowhere near",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """An image drawn twice, as encoded PNG or JPEG bytes: as labelled and as predicted. `detail` says how it went."""

    caption: str
    labelled: bytes
    predicted: bytes
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures that have something in common, and what that is."""

    title: str
    explanation: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class ReportInput:
    """What a page shows. Everything but the title may be left out, and its section is then missing.

    `history` are rows as `metrics.jsonl` holds them: `epoch`, `train/<loss>`, `val/<metric>`, `lr/<group>`; rows with
    validation metrics make the curves of validation. `trained` are the metrics of images that were trained on, to
    compare with. `facts` are settings worth seeing, in order.
    """

    title: str
    subtitle: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    history: Sequence[Mapping[str, Any]] = ()
    trained: Mapping[str, float] | None = None
    galleries: Sequence[Gallery] = ()


def write_report(run: ReportInput, out: Path) -> Path:
    """Write `out`/index.html and return its path. Raises DataError for a picture that is none."""
    out.mkdir(parents=True, exist_ok=True)
    page = out / "index.html"
    page.write_text(render_report(run), encoding="utf-8")
    return page


def render_report(run: ReportInput) -> str:
    """The page as text."""
    epochs = [row for row in run.history if any(key.startswith("val/") for key in row)]
    unseen = {} if run.evaluation is None else run.evaluation.metrics
    return render_page(
        "raypose.evaluate",
        "report.html.j2",
        eyebrow="raypose report",
        title=run.title,
        subtitle=run.subtitle,
        facts=run.facts,
        filters={"figure": figure_text, "unit": unit_of},
        course=report_charts.course_charts(epochs, run.trained, unseen),
        losses=report_charts.loss_charts(run.history),
        fit=[text for text in (describe_course(epochs), describe_gap(run.trained or {}, unseen)) if text],
        trained=run.trained,
        galleries=[
            (
                gallery,
                [
                    (item, data_uri(item.labelled, item.caption), data_uri(item.predicted, item.caption))
                    for item in gallery.pictures
                ],
            )
            for gallery in run.galleries
            if gallery.pictures
        ],
        **_measured(run.evaluation),
    )


def _measured(evaluation: Evaluation | None) -> dict[str, Any]:
    """What a validation adds to the page."""
    if evaluation is None:
        return {"measured": False, "key_figures": [], "metrics": {}, "class_rows": [], "figures": []}
    return {
        "measured": True,
        "notes": evaluation.notes,
        "key_figures": _key_figures(evaluation.metrics),
        "detection": report_charts.detection_charts(evaluation),
        "calibration": report_charts.calibration_charts(evaluation),
        "keypoints": report_charts.keypoint_charts(evaluation),
        "pck": report_charts.pck_chart(evaluation),
        "keypoint_rows": [asdict(row) for row in evaluation.per_keypoint],
        "errors": report_charts.error_charts(evaluation),
        "kinds": [(kind, _KIND_MEANINGS.get(kind.name, "")) for kind in evaluation.error_kinds],
        "class_rows": [asdict(row) for row in evaluation.per_class],
        "confusion": _confusion(evaluation),
        "confidence": evaluation.images.confidence,
        "figures": [(figure.title, data_uri(figure.image, figure.title)) for figure in evaluation.figures],
        "metrics": evaluation.metrics,
    }


def _key_figures(metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
    return [
        (label, figure_text(metrics[name], unit_of(name)), detail)
        for name, label, detail in _KEY_FIGURES
        if name in metrics
    ]


def _confusion(evaluation: Evaluation) -> list[tuple[str, list[tuple[int, float]]]]:
    """For each class as labelled, and nobody, the counts by class as predicted, each with its share of the row."""
    names = [*(row.name for row in evaluation.per_class), "nobody"]
    rows = zip(names, evaluation.confusion_CC.tolist(), strict=True)
    return [(name, [(count, count / max(sum(counts), 1)) for count in counts]) for name, counts in rows]


def unit_of(metric: str) -> str:
    """How `figure_text` is to write a metric."""
    return "count" if metric in COUNTS else "px" if metric.endswith("_px") else ""


def figure_text(value: float | None, unit: str = "") -> str:
    """A number as people read it: counts whole, pixels with one decimal, shares with three, a dash for undefined."""
    if value is None or not math.isfinite(value):
        return "–"
    if unit == "px":
        return f"{value:.1f}"
    return f"{value:.0f}" if unit == "count" else f"{value:.3f}"
