"""Line charts and horizontal bars."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from raypose.pages import svg

_ROW, _MORE = 22.0, 9.0  # height of a row with one bar, and what each bar more adds
_HEAD, _FOOT, _VALUES = 4.0, 38.0, 38.0
_ASIDE, _ASCENT, _TEXT_HEIGHT = 5.0, 10.0, 13.0  # of a label beside a mark: its distance, and its letters' size
_PLACE_EVERY = 6


@dataclass(frozen=True, slots=True)
class Line:
    """One curve. `tone` 1 to 5 is its colour, 0 that of something to compare with; gaps are NaN."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    tone: int = 1
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """One bar for each row of a bar chart, NaN for none."""

    name: str
    values: Sequence[float]
    tone: int = 1


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    x_range: svg.Range | None = None,
    y_range: svg.Range | None = None,
    whole_x: bool = False,
    mark: tuple[float, str] | None = None,
    legend: bool = True,
) -> Markup:
    """Curves over a common grid. `mark` is a vertical line with a label; `whole_x` keeps ticks at whole numbers."""
    x_low, x_high = x_range or svg.spread([value for line in lines for value in line.x])
    y_low, y_high = y_range or svg.spread([value for line in lines for value in line.y], from_zero=True)
    x_ticks, y_ticks = svg.ticks(x_low, x_high, whole=whole_x), svg.ticks(y_low, y_high, beyond=y_range is None)
    y_low, y_high = min(y_low, y_ticks[0]), max(y_high, y_ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        return svg.LEFT + across * (svg.WIDTH - svg.LEFT - svg.RIGHT), svg.HEIGHT - svg.BOTTOM - up * (
            svg.HEIGHT - svg.TOP - svg.BOTTOM
        )

    parts = []
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(svg.rule(svg.LEFT, y, svg.WIDTH - svg.RIGHT, y))
        parts.append(svg.text(svg.LEFT - 6, y + 4, svg.tick_label(tick, y_ticks), "end"))
    for tick in x_ticks:
        x, _ = place(tick, y_low)
        parts.append(svg.text(x, svg.HEIGHT - svg.BOTTOM + 16, svg.tick_label(tick, x_ticks), "middle"))
    parts.append(svg.text((svg.LEFT + svg.WIDTH - svg.RIGHT) / 2, svg.HEIGHT - 6, x_label, "middle", "axis"))
    parts.append(svg.turned_text(11, (svg.TOP + svg.HEIGHT - svg.BOTTOM) / 2, y_label))
    curves = [[place(*point) for point in _points(line)] for line in lines]
    parts.extend(_curve(line, curve) for line, curve in zip(lines, curves, strict=True))
    if mark is not None and math.isfinite(mark[0]):
        parts += _mark(place(mark[0], y_low)[0], mark[1], curves)
    label = f"{y_label} against {x_label}: {', '.join(line.name for line in lines)}"
    keys = [(line.name, line.tone, line.dashed) for line in lines] if legend and len(lines) > 1 else []
    return svg.figure(svg.WIDTH, svg.HEIGHT, label, parts, keys)


def bar_chart(
    rows: Sequence[str], bars: Sequence[Bars], *, x_label: str, x_range: svg.Range | None = None, decimals: int = 2
) -> Markup:
    """Horizontal bars in groups, a group for each row, with the value behind each bar."""
    low, high = x_range or svg.spread([value for group in bars for value in group.values], from_zero=True)
    x_ticks = svg.ticks(low, high, count=4, beyond=x_range is None)
    high = max(high, x_ticks[-1])
    row_height = _ROW + _MORE * (len(bars) - 1)
    bottom = _HEAD + row_height * len(rows)
    left, right, height = svg.name_room(rows), svg.WIDTH - _VALUES, bottom + _FOOT

    def place(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    parts = []
    for tick in x_ticks:
        parts.append(svg.rule(place(tick), _HEAD, place(tick), bottom))
        parts.append(svg.text(place(tick), bottom + 15, svg.tick_label(tick, x_ticks), "middle"))
    parts.append(svg.text((left + right) / 2, height - 6, x_label, "middle", "axis"))
    thickness = (row_height - 8) / len(bars)
    for row, name in enumerate(rows):
        top = _HEAD + row_height * row + 4
        parts.append(svg.row_name(left - 8, _HEAD + row_height * (row + 0.5) + 4, name, left))
        for index, group in enumerate(bars):
            value, y = group.values[row], top + index * thickness
            if not math.isfinite(value):
                continue
            width, figure = max(place(value) - left, 1.0), f"{value:.{decimals}f}"
            parts.append(
                f'<rect class="bar tone{group.tone}" x="{left}" y="{y:.1f}" width="{width:.1f}"'
                f' height="{thickness - 1.5:.1f}" rx="2"><title>{escape(name)}, {escape(group.name)}:'
                f" {figure}</title></rect>"
            )
            parts.append(svg.text(left + width + 4, y + thickness / 2 + 2.8, figure, "start", "value"))
    legend = [(group.name, group.tone, False) for group in bars]
    return svg.figure(svg.WIDTH, height, f"{x_label}: {', '.join(rows)}", parts, legend if len(bars) > 1 else [])


def _mark(x: float, label: str, curves: Sequence[Sequence[svg.Point]]) -> list[str]:
    bottom = svg.HEIGHT - svg.BOTTOM
    text_x, text_y, anchor = _free_place(x, svg.LETTER * len(label), curves)
    return [
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{svg.TOP}" y2="{bottom}"/>',
        svg.text(text_x, text_y, label, anchor, "mark-label"),
    ]


def _free_place(x: float, wide: float, curves: Sequence[Sequence[svg.Point]]) -> tuple[float, float, str]:
    """Where a label beside the upright line at `x` hides least of the curves: as high as may be, right before left."""
    sides = [(x + _ASIDE, x + _ASIDE, "start"), (x - _ASIDE, x - _ASIDE - wide, "end")]
    inside = [side for side in sides if svg.LEFT <= side[1] <= svg.WIDTH - svg.RIGHT - wide]
    points = [point for curve in curves for point in _close_points(curve)]
    bottom = svg.HEIGHT - svg.BOTTOM
    places = [
        (_covered(points, left, top, wide), text_x, top + _ASCENT, anchor)
        for top in range(int(svg.TOP), int(bottom - _TEXT_HEIGHT), _PLACE_EVERY)
        for text_x, left, anchor in inside or sides
    ]
    return min(places, key=lambda place: place[0])[1:]


def _covered(points: Sequence[svg.Point], left: float, top: float, wide: float) -> int:
    """How many points lie in a label, or so near that they touch it."""
    return sum(
        left - _ASIDE < x < left + wide + _ASIDE and top - _ASIDE < y < top + _TEXT_HEIGHT + _ASIDE for x, y in points
    )


def _close_points(curve: Sequence[svg.Point]) -> list[svg.Point]:
    """Points along a curve that are no further apart than a label is high, so that none slips through it."""
    points = [point for point in curve if math.isfinite(point[1])]
    for (x, y), (next_x, next_y) in itertools.pairwise(curve):
        if math.isfinite(y) and math.isfinite(next_y):
            steps = max(1, math.ceil(math.hypot(next_x - x, next_y - y) / _TEXT_HEIGHT * 2))
            points += [(x + (next_x - x) * i / steps, y + (next_y - y) * i / steps) for i in range(1, steps)]
    return points


def _points(line: Line) -> list[tuple[float, float]]:
    return list(zip(line.x, line.y, strict=True))


def _curve(line: Line, places: Sequence[tuple[float, float]]) -> str:
    path, dots, drawing = [], [], False
    for (x_value, y_value), (x, y) in zip(_points(line), places, strict=True):
        if not math.isfinite(y_value):
            drawing = False
            continue
        path.append(f"{'L' if drawing else 'M'}{x:.1f} {y:.1f}")
        drawing = True
        if len(places) <= 60:
            tip = f"{escape(line.name)}: {y_value:.4g} at {x_value:g}"
            dots.append(
                f'<circle class="dot tone{line.tone}" cx="{x:.1f}" cy="{y:.1f}" r="2"><title>{tip}</title></circle>'
            )
    dash = " dashed" if line.dashed else ""
    return f'<path class="curve tone{line.tone}{dash}" d="{" ".join(path)}"/>{"".join(dots)}'
