"""`raypose runs`: what runs there are, what is in one, what of it may go, and where two of them part."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from raypose.engine.run_catalogue import CheckpointEntry, RunEntry
    from raypose.engine.run_difference import RunDifference

app = typer.Typer(
    help="List, look at, prune and compare runs, in folders and s3:// places alike.", no_args_is_help=True
)

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run, by path or s3:// URL.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024
_LOOK_EVERY_S = 5.0


@app.command("list")
def list_command(
    storage: Annotated[str, typer.Argument(help="Folder or s3:// place that holds runs.")] = "runs",
    as_json: Json = False,
) -> None:
    """List the runs of a storage: how far each one came, how good it was, how much room it takes."""
    from raypose.engine.run_catalogue import list_runs

    runs = list_runs(storage)
    if as_json:
        typer.echo(json.dumps([run.to_dict() for run in runs]))
        return
    if not runs:
        typer.echo(f"{storage}: no runs")
        return
    header = ("run", "status", "step", "checkpoints", "best", "size", "architecture")
    typer.echo("\n".join(_table([header, *map(_row, runs)])))
    for run in runs:
        if run.problem is not None:
            typer.echo(f"note: {run.problem}", err=True)


@app.command()
def show(run: RunArgument, as_json: Json = False) -> None:
    """Show one run: status, recipe, and its checkpoints."""
    from raypose.engine.run_catalogue import show_run

    entry, config = show_run(run)
    if as_json:
        typer.echo(json.dumps({**entry.to_dict(), "config": config.model_dump(mode="json")}))
        return
    facts = [
        ("run", entry.url),
        ("status", f"{entry.status}, step {entry.step}"),
        ("model", f"{entry.architecture} at {config.train.imgsz} px, {config.train.epochs} epochs"),
        ("batch", f"{config.train.batch} over {config.scaling.lanes} virtual workers"),
        ("data", f"{config.data.train}, validated on {config.data.val}"),
        ("recipe", config.recipe_digest()[:12]),
        ("size", _bytes(entry.size_bytes)),
    ]
    typer.echo("\n".join(f"{name:<8}{value}" for name, value in facts))
    if entry.checkpoints:
        header = ("checkpoint", entry.best_metric, "size", "")
        rows = [
            (one.name, _metric(one, entry.best_metric), _bytes(one.size_bytes), "best" if one.is_best else "")
            for one in entry.checkpoints
        ]
        typer.echo("\n" + "\n".join(_table([header, *rows])))


@app.command()
def tail(
    run: RunArgument,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines of its log.")] = 10,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="And those that come, until the run has ended.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the end of a run's log, wherever the run computes: losses, speed, validation."""
    from raypose.engine.run_tail import tail as rows_of

    for row in rows_of(run, last=lines, wait=(lambda: time.sleep(_LOOK_EVERY_S)) if follow else None):
        typer.echo(json.dumps(row) if as_json else _row_in_words(row))


@app.command()
def prune(
    run: RunArgument,
    keep_last: Annotated[int, typer.Option(min=0, help="Newest checkpoints to keep.")],
    keep_best: Annotated[int, typer.Option(min=0, help="Best checkpoints to keep besides, by the run's own metric.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Delete checkpoints of a run, and what an interrupted save has left."""
    from raypose.engine.run_catalogue import prune_run

    pruned = prune_run(run, keep_last=keep_last, keep_best=keep_best, dry_run=dry_run)
    would = "would delete" if dry_run else "deleted"
    for name in pruned.names:
        typer.echo(f"{would} {name}")
    typer.echo(f"{run}: {would} {len(pruned.names)} checkpoints ({_bytes(pruned.size_bytes)}), {len(pruned.kept)} stay")


@app.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A run, by path or s3:// URL.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another run.")],
    as_json: Json = False,
) -> None:
    """Say where two runs part: settings, data, versions, and the first step at which their losses differ."""
    from raypose.engine.run_difference import diff_runs

    difference = diff_runs(first, second)
    if as_json:
        typer.echo(json.dumps(difference.to_dict()))
    else:
        typer.echo("\n".join(_in_words(difference)))


def _row_in_words(row: Mapping[str, Any]) -> str:
    from raypose.evaluate.run import COUNTS

    measured = "train/" if row["kind"] == "train" else "val/"
    figures = {name.removeprefix(measured): value for name, value in row.items() if name.startswith(measured)}
    values = [
        f"{name.removesuffix('_loss')} {value:.{0 if name in COUNTS else 3}f}"
        for name, value in figures.items()
        if value is not None
    ]
    speed = f"  {row['images_per_second']:.1f} images/s" if "images_per_second" in row else ""
    return f"{row['kind']:<5}  step {row['step']}  epoch {row['epoch']:.2f}{speed}  {'  '.join(values)}"


def _in_words(difference: RunDifference) -> list[str]:
    settings = [(f"  {key}", *pair) for key, pair in difference.settings.items()]
    versions = [(f"  {package}", *pair) for package, pair in difference.versions.items()]
    lines = ["settings", *_table(settings)] if settings else ["settings    the same, name and storage aside"]
    if difference.identity:
        lines.append(f"identity    differs in {', '.join(difference.identity)}")
    else:
        lines.append("identity    the same data, skeleton, classes and recipe, as far as checkpoints say")
    lines += ["versions", *_table(versions)] if versions else ["versions    the same"]
    lines.append(f"losses      {_losses_in_words(difference)}")
    for words, steps in (
        ("have the same bits", difference.equal_checkpoints),
        ("do not have the same bits", difference.other_checkpoints),
    ):
        if steps:
            which = f"step{'' if len(steps) == 1 else 's'} {', '.join(map(str, steps))}"
            lines.append(f"weights     the checkpoints of {which} {words}")
    return lines


def _losses_in_words(difference: RunDifference) -> str:
    parting = difference.parting
    if not difference.compared_steps:
        return "no step that both have logged"
    if parting is None:
        return f"the same numbers at all {difference.compared_steps} steps that both have logged"
    first, second = parting.values
    return f"part at step {parting.step}: {parting.loss} {first:.9g} and {second:.9g}, {parting.relative:.1e} apart"


def _row(run: RunEntry) -> tuple[str, ...]:
    best = run.best
    quality = "" if best is None else f"{run.best_metric} {_metric(best, run.best_metric)} at {best.step}"
    count = str(len(run.checkpoints))
    return (run.name, run.status, str(run.step), count, quality, _bytes(run.size_bytes), run.architecture)


def _metric(checkpoint: CheckpointEntry, name: str) -> str:
    value = checkpoint.metrics.get(name)
    return "-" if value is None else f"{value:.3f}"


def _bytes(count: float) -> str:
    for unit in _UNITS[:-1]:
        if count < _STEP:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _STEP
    return f"{count:.1f} {_UNITS[-1]}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
