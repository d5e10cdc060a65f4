"""Runs side by side as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raypose.evaluate.fit import column
from raypose.evaluate.report import figure_text, unit_of
from raypose.evaluate.report_charts import Chart
from raypose.evaluate.run_comparison import RunComparison, RunRecord
from raypose.pages import render_page
from raypose.pages.charts import Line, line_chart

_CURVES = (
    ("val/pose_ap", "Pose AP"),
    ("val/pose_ap50", "Pose AP50"),
    ("val/box_ap", "Box AP"),
    ("train/pose_loss", "Training pose loss"),
)
_TONES = 5


def render_comparison(comparison: RunComparison) -> str:
    """The page as text."""
    return render_page(
        "raypose.evaluate",
        "compare.html.j2",
        eyebrow="raypose compare",
        title=" against ".join(run.name for run in comparison.runs)
        if len(comparison.runs) == 2
        else f"{len(comparison.runs)} runs",
        filters={"figure": figure_text, "unit": unit_of, "duration": _duration},
        comparison=comparison,
        curves=_curves(comparison.runs),
    )


def _curves(runs: Sequence[RunRecord]) -> list[Chart]:
    by_epoch = [_overlaid(runs, key, title, "epoch", lambda row: float(row["epoch"])) for key, title in _CURVES]
    by_time = _overlaid(
        runs, "val/pose_ap", "Pose AP by time", "minutes of training", lambda row: float(row["seconds"]) / 60
    )
    return [chart for charts in (*by_epoch, by_time) for chart in charts]


def _overlaid(
    runs: Sequence[RunRecord], key: str, title: str, x_label: str, place: Callable[[Mapping[str, Any]], float]
) -> list[Chart]:
    """The chart of one metric, none where no run has it."""
    lines = []
    for index, run in enumerate(runs):
        rows = [row for row in run.history if row.get("kind") == "val" and key in row]
        if rows:
            x, y = [place(row) for row in rows], column(rows, key)
            lines.append(Line(run.name, x, y, 1 + index % _TONES, dashed=index // _TONES % 2 == 1))
    if not lines:
        return []
    x_range = (0.0, max(max(line.x) for line in lines))
    y_range = (0.0, 1.0) if key.startswith("val/") else None
    y_label = title.partition(" by ")[0]
    return [(title, line_chart(lines, x_label=x_label, y_label=y_label, x_range=x_range, y_range=y_range))]


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "–"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{seconds / 60:.1f} min"
