"""`raypose compare`: runs side by side."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from raypose.evaluate.run_comparison import RunComparison


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
    typer.echo("\n".join(_table(comparison)))
    if out is not None:
        typer.echo(f"page: {out}")


def _table(comparison: RunComparison) -> list[str]:
    from raypose.evaluate.report import figure_text, unit_of

    metrics = [
        [
            name,
            *(
                f"{figure_text(value, unit_of(name))}{'*' if i in comparison.best[name] else ' '}"
                for i, value in enumerate(values)
            ),
        ]
        for name, values in comparison.metrics.items()
    ]
    settings = [[key, *(f"{value} " for value in values)] for key, values in comparison.settings.items()]
    rows = [["", *(f"{run.name} " for run in comparison.runs)], *metrics]
    rows += [[""] * len(rows[0]), *settings] if settings else []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]
