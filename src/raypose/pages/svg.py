"""What charts are made of: SVG text, its colours CSS classes of the page, so that it follows light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 10.0, 40.0

LETTER = 6.6
"""Room for a letter, in the mean of a text and with some to spare."""
_NAME_LEAST, _NAME_MOST = 64.0, 168.0

Range = tuple[float, float]
Point = tuple[float, float]


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


def spread(values: Sequence[float], *, from_zero: bool = False) -> Range:
    """The range of the finite values, never empty."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = (min(0.0, *finite) if from_zero else min(finite)), max(finite)
    return (low, high) if high > low else (low, low + 1.0)


def figure(
    width: float, height: float, label: str, parts: Sequence[str], legend: Sequence[tuple[str, int, bool]] = ()
) -> Markup:
    """A drawing under its legend of (name, tone, dashed)."""
    keys = "".join(
        f'<li><i class="key tone{tone}{" dashed" if dashed else ""}"></i>{escape(name)}</li>'
        for name, tone, dashed in legend
    )
    drawn = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    return Markup(f'<ul class="legend">{keys}</ul>{drawn}' if keys else drawn)


def name_room(names: Sequence[str]) -> float:
    """The width that names of rows take, within reason."""
    return min(_NAME_MOST, max(_NAME_LEAST, LETTER * max((len(name) for name in names), default=0) + 14))


def row_name(x: float, y: float, name: str, room: float) -> str:
    """A name that ends at `x`, in words and shortened to fit."""
    words, letters = name.replace("_", " "), int((room - 14) / LETTER)
    if len(words) <= letters:
        return text(x, y, words, "end", "name")
    shown = f'<text class="name" x="{x:.1f}" y="{y:.1f}" text-anchor="end"><title>{escape(words)}</title>'
    return f"{shown}{escape(words[: letters - 1].rstrip())}…</text>"


def rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="rule" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def turned_text(x: float, y: float, text: str) -> str:
    turn = f"rotate(-90 {x:.1f} {y:.1f})"
    return f'<text class="axis" x="{x:.1f}" y="{y:.1f}" text-anchor="middle" transform="{turn}">{escape(text)}</text>'


def tick_label(value: float, neighbours: Sequence[float]) -> str:
    """As many decimals as the ticks need."""
    decimals = next((d for d in range(6) if all(abs(tick - round(tick, d)) < 1e-9 for tick in neighbours)), 6)
    return f"{value:.{decimals}f}"
