"""Line and bar charts as SVG text. Colours are CSS classes of the page, so that charts follow light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 420.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 10.0, 40.0
_ROW, _BAR, _NAMES = 26.0, 8.0, 104.0
_HEAD, _FOOT, _VALUES = 4.0, 38.0, 34.0

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve. `tone` 1 to 5 is its colour; gaps are NaN."""

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
    x_range: Range | None = None,
    y_range: Range | None = None,
    whole_x: bool = False,
    mark: tuple[float, str] | None = None,
) -> Markup:
    """Curves over a common grid. `mark` is a vertical line with a label; `whole_x` keeps ticks at whole numbers."""
    x_low, x_high = x_range or _spread([value for line in lines for value in line.x])
    y_low, y_high = y_range or _spread([value for line in lines for value in line.y], from_zero=True)
    x_ticks, y_ticks = ticks(x_low, x_high, whole=whole_x), ticks(y_low, y_high, beyond=y_range is None)
    y_low, y_high = min(y_low, y_ticks[0]), max(y_high, y_ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(_rule(_LEFT, y, _WIDTH - _RIGHT, y))
        parts.append(_text(_LEFT - 6, y + 4, _number(tick, y_ticks), "end"))
    for tick in x_ticks:
        x, _ = place(tick, y_low)
        parts.append(_text(x, _HEIGHT - _BOTTOM + 16, _number(tick, x_ticks), "middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x_label, "middle", "axis"))
    parts.append(_turned_text(11, (_TOP + _HEIGHT - _BOTTOM) / 2, y_label))
    if mark is not None and math.isfinite(mark[0]):
        x, _ = place(mark[0], y_low)
        near_right = x > _WIDTH * 0.7
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(_text(x + (-5 if near_right else 5), _TOP + 10, mark[1], "end" if near_right else "start"))
    parts.extend(_curve(line, [place(*point) for point in _points(line)]) for line in lines)
    label = f"{y_label} against {x_label}: {', '.join(line.name for line in lines)}"
    legend = [(line.name, line.tone, line.dashed) for line in lines] if len(lines) > 1 else []
    return _figure(_WIDTH, _HEIGHT, label, parts, legend)


def bar_chart(
    rows: Sequence[str], bars: Sequence[Bars], *, x_label: str, x_range: Range | None = None, decimals: int = 2
) -> Markup:
    """Horizontal bars in groups, a group for each row, with the value behind each bar."""
    low, high = x_range or _spread([value for group in bars for value in group.values], from_zero=True)
    x_ticks = ticks(low, high, count=4, beyond=x_range is None)
    high = max(high, x_ticks[-1])
    bottom = _HEAD + _ROW * len(rows)
    height, right = bottom + _FOOT, _WIDTH - _VALUES

    def place(value: float) -> float:
        return _NAMES + (value - low) / (high - low) * (right - _NAMES)

    parts = []
    for tick in x_ticks:
        parts.append(_rule(place(tick), _HEAD, place(tick), bottom))
        parts.append(_text(place(tick), bottom + 15, _number(tick, x_ticks), "middle"))
    parts.append(_text((_NAMES + right) / 2, height - 6, x_label, "middle", "axis"))
    thickness = min(_BAR * 2, (_ROW - 6) / len(bars))
    for row, name in enumerate(rows):
        top = _HEAD + _ROW * row + (_ROW - thickness * len(bars)) / 2
        parts.append(_text(_NAMES - 8, _HEAD + _ROW * (row + 0.5) + 4, name.replace("_", " "), "end", "name"))
        for index, group in enumerate(bars):
            value, y = group.values[row], top + index * thickness
            if not math.isfinite(value):
                continue
            width = max(place(value) - _NAMES, 1.0)
            parts.append(
                f'<rect class="bar tone{group.tone}" x="{_NAMES}" y="{y:.1f}" width="{width:.1f}"'
                f' height="{thickness - 1:.1f}" rx="1.5"><title>{escape(name)}, {escape(group.name)}:'
                f" {value:.{decimals}f}</title></rect>"
            )
            parts.append(_text(_NAMES + width + 4, y + thickness / 2 + 3, f"{value:.{decimals}f}", "start", "value"))
    legend = [(group.name, group.tone, False) for group in bars]
    return _figure(_WIDTH, height, f"{x_label}: {', '.join(rows)}", parts, legend if len(bars) > 1 else [])


def ticks(low: float, high: float, *, count: int = 5, whole: bool = False, beyond: bool = False) -> list[float]:
    """About `count` round numbers, 1, 2, 2.5 or 5 apart, between `low` and `high`; `beyond` adds one that ends both."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    outward = 1 - 2e-9 if beyond else 0.0
    first, last = math.ceil(low / step - 1e-9 - outward), math.floor(high / step + 1e-9 + outward)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _spread(values: Sequence[float], *, from_zero: bool = False) -> Range:
    """The range of the finite values, never empty."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = (min(0.0, *finite) if from_zero else min(finite)), max(finite)
    return (low, high) if high > low else (low, low + 1.0)


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


def _figure(
    width: float, height: float, label: str, parts: Sequence[str], legend: Sequence[tuple[str, int, bool]]
) -> Markup:
    keys = "".join(
        f'<li><i class="key tone{tone}{" dashed" if dashed else ""}"></i>{escape(name)}</li>'
        for name, tone, dashed in legend
    )
    svg = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    return Markup(f'<ul class="legend">{keys}</ul>{svg}' if keys else svg)


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="rule" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _turned_text(x: float, y: float, text: str) -> str:
    turn = f"rotate(-90 {x:.1f} {y:.1f})"
    return f'<text class="axis" x="{x:.1f}" y="{y:.1f}" text-anchor="middle" transform="{turn}">{escape(text)}</text>'


def _number(value: float, neighbours: Sequence[float]) -> str:
    """As many decimals as the ticks need."""
    decimals = next((d for d in range(6) if all(abs(tick - round(tick, d)) < 1e-9 for tick in neighbours)), 6)
    return f"{value:.{decimals}f}"
