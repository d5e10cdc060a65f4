"""How values are spread: histograms, shares and heat maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from raypose.pages import svg

_LEVELS = 6
_TILE = 120.0
_ROW, _HEAD, _FOOT = 22.0, 4.0, 38.0


@dataclass(frozen=True, slots=True)
class Shares:
    """One part of every row, in the colour `tone` 1 to 5, or 0 for what is missing."""

    name: str
    values: Sequence[float]
    tone: int


def histogram(edges: Sequence[float], counts: Sequence[int], *, x_label: str, y_label: str, octaves: bool) -> Markup:
    """Columns between `edges`, one more than `counts`; on an axis of equal octaves where `octaves` says so."""
    place_x, x_ticks = _x_axis(edges[0], edges[-1], octaves)
    y_ticks = svg.ticks(0.0, float(max(*counts, 1)), count=4, whole=True, beyond=True)
    high = svg.HEIGHT - svg.TOP - svg.BOTTOM
    bottom, top = svg.HEIGHT - svg.BOTTOM, y_ticks[-1]
    parts = []
    for tick in y_ticks:
        y = bottom - high * tick / top
        parts.append(svg.rule(svg.LEFT, y, svg.WIDTH - svg.RIGHT, y))
        parts.append(svg.text(svg.LEFT - 6, y + 4, short(tick), "end"))
    for tick in x_ticks:
        parts.append(svg.text(place_x(tick), bottom + 16, f"{tick:g}", "middle"))
    for low, up, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count:
            x, tall = place_x(low), max(high * count / top, 0.7)
            wide = max(place_x(up) - x - 1, 0.8)
            tip = f"{_span(low, up, octaves)}: {count:,}"
            parts.append(
                f'<rect class="bar tone1" x="{x + 0.5:.1f}" y="{bottom - tall:.1f}" width="{wide:.1f}"'
                f' height="{tall:.1f}" rx="1"><title>{tip}</title></rect>'
            )
    parts.append(svg.text((svg.LEFT + svg.WIDTH - svg.RIGHT) / 2, svg.HEIGHT - 6, x_label, "middle", "axis"))
    parts.append(svg.turned_text(11, (svg.TOP + bottom) / 2, y_label))
    return svg.figure(svg.WIDTH, svg.HEIGHT, f"{y_label} by {x_label}", parts)


def shares_chart(rows: Sequence[str], shares: Sequence[Shares], *, x_label: str) -> Markup:
    """One bar of full length for each row, cut into its parts; the values of a row add up to 1, or are all 0."""
    bottom, left, right = _HEAD + _ROW * len(rows), svg.name_room(rows), svg.WIDTH - svg.RIGHT
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + tick * (right - left)
        parts.append(svg.rule(x, _HEAD, x, bottom))
        parts.append(svg.text(x, bottom + 15, f"{tick:.0%}", "middle"))
    parts.append(svg.text((left + right) / 2, bottom + _FOOT - 6, x_label, "middle", "axis"))
    for row, name in enumerate(rows):
        top, x = _HEAD + _ROW * row + 4, left
        parts.append(svg.row_name(left - 8, top + 11, name, left))
        for share in shares:
            wide = share.values[row] * (right - left)
            tip = f"{escape(name)}, {escape(share.name)}: {share.values[row]:.1%}"
            if wide > 0:
                parts.append(
                    f'<rect class="bar tone{share.tone}" x="{x:.1f}" y="{top:.1f}" width="{wide:.1f}"'
                    f' height="{_ROW - 8:.1f}"><title>{tip}</title></rect>'
                )
            x += wide
    legend = [(share.name, share.tone, False) for share in shares]
    return svg.figure(svg.WIDTH, bottom + _FOOT, f"{x_label}: {', '.join(rows)}", parts, legend)


def heat_map(counts_HW: NDArray[np.int64], side_px: Sequence[float], *, x_label: str, y_label: str) -> Markup:
    """Counts in cells of equal octaves: W of them across and H down, whose edges in both directions are `side_px`."""
    place_x, ticks = _x_axis(side_px[0], side_px[-1], octaves=True)
    wide, high = svg.WIDTH - svg.LEFT - svg.RIGHT, svg.HEIGHT - svg.TOP - svg.BOTTOM
    bottom = svg.HEIGHT - svg.BOTTOM
    parts = []
    for tick in ticks:
        y = bottom - (place_x(tick) - svg.LEFT) / wide * high
        parts.append(svg.rule(svg.LEFT, y, svg.WIDTH - svg.RIGHT, y))
        parts.append(svg.text(svg.LEFT - 6, y + 4, f"{tick:g}", "end"))
        parts.append(svg.rule(place_x(tick), svg.TOP, place_x(tick), bottom))
        parts.append(svg.text(place_x(tick), bottom + 16, f"{tick:g}", "middle"))
    rows, columns = counts_HW.shape
    move = f"translate({svg.LEFT} {svg.TOP}) scale({wide / columns:.4f} {high / rows:.4f})"
    parts.append(f'<g transform="{move}">{_density(counts_HW[::-1])}</g>')
    parts.append(svg.text((svg.LEFT + svg.WIDTH - svg.RIGHT) / 2, svg.HEIGHT - 6, x_label, "middle", "axis"))
    parts.append(svg.turned_text(11, (svg.TOP + bottom) / 2, y_label))
    return svg.figure(svg.WIDTH, svg.HEIGHT, f"{y_label} against {x_label}", parts)


def place_map(counts_HW: NDArray[np.int64], margin: float, label: str) -> Markup:
    """Where points lie in and around a box, drawn as a frame; cells reach `margin` of its sides beyond each edge."""
    rows, columns = counts_HW.shape
    inset, side = _TILE * margin / (1 + 2 * margin), _TILE / (1 + 2 * margin)
    parts = [
        f'<g transform="scale({_TILE / columns:.4f} {_TILE / rows:.4f})">{_density(counts_HW)}</g>',
        f'<rect class="frame" x="{inset:.1f}" y="{inset:.1f}" width="{side:.1f}" height="{side:.1f}"/>',
    ]
    return svg.figure(_TILE, _TILE, label, parts)


def short(count: float) -> str:
    """A count in a few characters: 950, 1.2k, 34k, 5.6M."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.3g}{unit}"
    return f"{count:g}"


def _density(counts_HW: NDArray[np.int64]) -> str:
    """One path for each shade, in cells of 1 by 1. A shade follows the square root, so that rare places show."""
    top = counts_HW.max(initial=0)
    if not top:
        return ""
    level_HW = np.ceil(np.sqrt(counts_HW / top) * _LEVELS).astype(int)
    paths = []
    for level in range(1, _LEVELS + 1):
        runs = "".join(_runs(level_HW[row] == level, row) for row in range(len(level_HW)))
        if runs:
            paths.append(f'<path class="cell tone1" fill-opacity="{level / _LEVELS:.2f}" d="{runs}"/>')
    return "".join(paths)


def _runs(marked_W: NDArray[np.bool_], row: int) -> str:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked_W, [False]]).astype(np.int8)))
    return "".join(f"M{start} {row}h{stop - start}v1h{start - stop}z" for start, stop in edges.reshape(-1, 2).tolist())


def _x_axis(low: float, high: float, octaves: bool) -> tuple[Callable[[float], float], list[float]]:
    """Where a value lies, and the values that have a tick."""
    wide = svg.WIDTH - svg.LEFT - svg.RIGHT
    if not octaves:
        whole = (
            svg.ticks(math.ceil(low), math.floor(high), count=8, whole=True) if high - low > 1 else [float(round(high))]
        )
        return (lambda value: svg.LEFT + (value - low) / (high - low) * wide), whole
    first, last = math.log2(low), math.log2(high)
    step = max(1, math.ceil((last - first) / 8))
    powers = [2.0**power for power in range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1, step)]
    return (lambda value: svg.LEFT + (math.log2(value) - first) / (last - first) * wide), powers


def _span(low: float, up: float, octaves: bool) -> str:
    if octaves:
        return f"{low:.0f} to {up:.0f}"
    first, last = math.ceil(low), math.floor(up)
    return f"{first}" if first == last else f"{first} to {last}"
