"""`raypose tune`: many runs of one file, their settings searched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from raypose.errors import ConfigError

if TYPE_CHECKING:
    from raypose.tune.run import SweepResult


def tune(
    sweep_file: Annotated[
        str | None, typer.Argument(metavar="SWEEP.yaml", help="A sweep file.", show_default=False)
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="SWEEP", help="Go on with the sweep at this path or s3:// URL.")
    ] = None,
    status: Annotated[
        str | None, typer.Option(metavar="SWEEP", help="Show how the sweep at this path or s3:// URL stands.")
    ] = None,
    best: Annotated[
        str | None, typer.Option(metavar="SWEEP", help="Print the best trial's run file, for 'raypose train'.")
    ] = None,
    trial: Annotated[
        int | None, typer.Option(min=0, help="With --best: this trial instead, such as one of the front.")
    ] = None,
    suggest: Annotated[
        str | None, typer.Option(metavar="DATA", help="Print a sweep file with what a shard set asks for.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the file and its data, and start nothing.")] = False,
    or_continue: Annotated[
        bool, typer.Option("--continue", help="Go on with the sweep of this file if it has begun, else begin it.")
    ] = False,
) -> None:
    """Search settings: whole training runs as trials, on the Ray cluster that RAY_ADDRESS names or on this machine.

    raypose tune configs/tune-demo.yaml

    raypose tune --resume runs/tune-demo
    """
    if sum(value is not None for value in (sweep_file, resume, status, best, suggest)) != 1:
        raise ConfigError(
            "tune: name a sweep file (see configs/tune-demo.yaml), or one of --resume, --status, --best and --suggest"
        )
    if trial is not None and best is None:
        raise ConfigError("tune: --trial goes with --best SWEEP")
    for option, is_given in (("--check", check), ("--continue", or_continue)):
        if is_given and sweep_file is None:
            raise ConfigError(f"tune: {option} goes with a sweep file")
    if check and or_continue:
        raise ConfigError("tune: --check starts nothing; leave out --continue, or --check")
    if status is not None:
        from raypose.tune.run import status as status_of

        _show(status_of(status))
    elif best is not None:
        from raypose.tune.run import best_yaml

        typer.echo(best_yaml(best, trial), nl=False)
    elif suggest is not None:
        from raypose.tune.suggest import suggested_file

        typer.echo(suggested_file(suggest), nl=False)
    elif check and sweep_file is not None:
        from raypose.tune.run import check as check_file

        typer.echo(check_file(sweep_file))
    elif or_continue and sweep_file is not None:
        from raypose.tune.run import begun_place

        begun = begun_place(sweep_file)
        _run(None if begun else sweep_file, begun)
    else:
        _run(sweep_file, resume)


def _run(sweep_file: str | None, resume: str | None) -> None:
    from raypose import api
    from raypose.tune.table import SweepDisplay

    with SweepDisplay() as display:
        result = api.tune(sweep_file, resume=resume, watch=display)
    _show(result)


def _show(result: SweepResult) -> None:
    from rich.console import Console

    from raypose.tune.table import sweep_table

    Console().print(sweep_table(result.sweep, result.trials))
    typer.echo(result.text())
