"""How values go together: points over two axes, and lines across many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from raypose.pages import svg

_LEGEND_ONLY_FROM = 2
_PARALLEL_WIDTH, _PARALLEL_HEIGHT = 880.0, 300.0
_SIDE, _HEAD, _FOOT = 70.0, 30.0, 18.0


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from `low` to `high`, of powers of ten where `log`, or of `names`, which are the values 0, 1, 2 …

    `whole` keeps ticks at whole numbers.
    """

    label: str
    low: float
    high: float
    log: bool = False
    names: tuple[str, ...] = ()
    whole: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        if self.names:
            return (value + 0.5) / len(self.names)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Values with their labels."""
        if self.names:
            return [(float(place), name) for place, name in enumerate(self.names)]
        if not self.log:
            values = svg.ticks(self.low, self.high, count=4, whole=self.whole)
            return [(value, svg.tick_label(value, values)) for value in values]
        powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
        values = [10.0**power for power in powers] if len(powers) > 1 else [self.low, self.high]
        return [(value, f"{value:.2g}") for value in values]


@dataclass(frozen=True, slots=True)
class Points:
    """A kind of points, of colour `tone` 0 to 5; each has a text that is shown on demand."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    tips: Sequence[str]
    tone: int = 1


def scatter_chart(groups: Sequence[Points], x_axis: Axis, y_axis: Axis, *, steps: Sequence[float] = ()) -> Markup:
    """Points over two axes; `steps`, one y for each whole x from 0, are drawn as a staircase."""
    wide, high = svg.WIDTH - svg.LEFT - svg.RIGHT, svg.HEIGHT - svg.TOP - svg.BOTTOM
    bottom = svg.HEIGHT - svg.BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return svg.LEFT + x_axis.share(x) * wide, bottom - y_axis.share(y) * high

    parts = []
    for value, label in y_axis.ticks():
        y = bottom - y_axis.share(value) * high
        parts += [svg.rule(svg.LEFT, y, svg.WIDTH - svg.RIGHT, y), svg.text(svg.LEFT - 6, y + 4, label, "end")]
    for value, label in x_axis.ticks():
        parts.append(svg.text(svg.LEFT + x_axis.share(value) * wide, bottom + 16, label, "middle"))
    parts.append(svg.text((svg.LEFT + svg.WIDTH - svg.RIGHT) / 2, svg.HEIGHT - 6, x_axis.label, "middle", "axis"))
    parts.append(svg.turned_text(11, (svg.TOP + bottom) / 2, y_axis.label))
    if steps:
        parts.append(f'<path class="curve tone0" d="{_staircase([place(x, y) for x, y in enumerate(steps)])}"/>')
    for group in groups:
        for x_value, y_value, tip in zip(group.x, group.y, group.tips, strict=True):
            x, y = place(x_value, y_value)
            parts.append(
                f'<circle class="dot tone{group.tone}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
                f"<title>{escape(tip)}</title></circle>"
            )
    legend = [(group.name, group.tone, False) for group in groups] if len(groups) >= _LEGEND_ONLY_FROM else []
    return svg.figure(svg.WIDTH, svg.HEIGHT, f"{y_axis.label} against {x_axis.label}", parts, legend)


def parallel_chart(axes: Sequence[Axis], lines: Sequence[tuple[Sequence[float], int, str]], *, label: str) -> Markup:
    """A line across upright axes for each of (values, tone, tip); NaN leaves an axis out. Later lines lie on top."""
    gap = (_PARALLEL_WIDTH - 2 * _SIDE) / max(len(axes) - 1, 1)
    tall = _PARALLEL_HEIGHT - _HEAD - _FOOT
    parts = []
    for values, tone, tip in lines:
        places = [
            (_SIDE + gap * place, _HEAD + tall * (1 - axis.share(value)))
            for place, (axis, value) in enumerate(zip(axes, values, strict=True))
            if math.isfinite(value)
        ]
        path = " ".join(f"{'L' if number else 'M'}{x:.1f} {y:.1f}" for number, (x, y) in enumerate(places))
        parts.append(f'<path class="curve tone{tone}" d="{path}"><title>{escape(tip)}</title></path>')
    for place, axis in enumerate(axes):
        x = _SIDE + gap * place
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_HEAD}" y2="{_HEAD + tall}"/>')
        parts.append(svg.text(x, _HEAD - 12, axis.label, "middle", "axis"))
        side, anchor = (-6, "end") if place == 0 else (6, "start")
        for value, text in axis.ticks():
            parts.append(svg.text(x + side, _HEAD + tall * (1 - axis.share(value)) + 4, text, anchor, "mark-label"))
    return svg.figure(_PARALLEL_WIDTH, _PARALLEL_HEIGHT, label, parts)


def _staircase(places: Sequence[tuple[float, float]]) -> str:
    steps = [f"M{places[0][0]:.1f} {places[0][1]:.1f}"]
    for x, y in places[1:]:
        steps += [f"H{x:.1f}", f"V{y:.1f}"]
    return " ".join(steps)
