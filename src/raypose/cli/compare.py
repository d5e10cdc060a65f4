"""`raypose compare`: runs side by side."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from raypose.evaluate.run_comparison import RunComparison

_WIDEST_SETTING = 40


def compare(
    runs: Annotated[list[str], typer.Argument(help="Two runs or more, by path or s3:// URL.")],
    out: Annotated[str | None, typer.Option(help="Write a page to this .html file, by path or s3:// URL.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare runs: settings that differ, metrics of the best checkpoints with the best marked, curves."""
    from raypose import api

    comparison = api.compare(runs, out=out)
    if as_json:
        typer.echo(json.dumps(comparison.to_dict()))
        return
    for note in comparison.notes:
        typer.echo(f"note: {note}", err=True)
    names = ["", *(run.name for run in comparison.runs)]
    typer.echo("\n".join(_metrics(comparison, names)))
    if comparison.settings:
        typer.echo("\n".join(["", *_settings(comparison, names)]))
    if out is not None:
        typer.echo(f"page: {out}")


def _metrics(comparison: RunComparison, names: list[str]) -> list[str]:
    from raypose.evaluate.report import figure_text, unit_of

    rows = [[names[0], *(f"{name} " for name in names[1:])]]
    for metric, values in comparison.metrics.items():
        figures = [figure_text(value, unit_of(metric)) for value in values]
        best = comparison.best[metric]
        rows.append([metric, *(f"{figure}{'*' if i in best else ' '}" for i, figure in enumerate(figures))])
    widths = _widths(rows)
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def _settings(comparison: RunComparison, names: list[str]) -> list[str]:
    """Values that are long go on in the next line: runs may differ in nothing but the end of one."""
    entries = [names, *([key, *values] for key, values in comparison.settings.items())]
    rows = [row for entry in entries for row in zip_longest(*map(_folded, entry), fillvalue="")]
    widths = _widths(rows)
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _folded(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDEST_SETTING, break_on_hyphens=False) or [""]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]
