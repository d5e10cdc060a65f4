"""`raypose train`: one YAML file, a few overrides, a trained model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from raypose.config import RunConfig, load_config
from raypose.errors import ConfigError

FileAndOverrides = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE.yaml KEY=VALUE …",
        help="A run's YAML file, then settings that replace those of the file, such as train.epochs=2.",
        show_default=False,
    ),
]


def train(
    arguments: FileAndOverrides = [],  # noqa: B006
    resume: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Continue the run at this path or s3:// URL from its last checkpoint."),
    ] = None,
    or_continue: Annotated[
        bool, typer.Option("--continue", help="Continue the run of this file if it has begun, else begin it.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each event of the run, for collectors of logs.")
    ] = False,
) -> None:
    """Train a model on the Ray cluster that RAY_ADDRESS names, or on this machine.

    raypose train configs/demo.yaml train.epochs=2 name=first

    raypose train --resume runs/first

    With --continue the same command may be given again and again, as schedulers do that start a job anew.
    """
    from raypose import api
    from raypose.telemetry.json_lines import JsonLines
    from raypose.telemetry.progress import TerminalProgress

    if resume is not None:
        if or_continue:
            raise ConfigError("train: --continue goes with a YAML file, not with --resume")
        config = api.run_config(resume, arguments)
    elif arguments:
        config = read_config(arguments)
    else:
        raise ConfigError("train: name a YAML file (see configs/), or --resume RUN")
    goes_on = resume is not None or (or_continue and _has_begun(config))
    if as_json:
        api.train(config, resume=goes_on, report=JsonLines(sys.stdout, config.name))
        return
    with TerminalProgress() as progress:
        summary = api.train(config, resume=goes_on, report=progress)
    typer.echo(api.summary_text(summary))


def _has_begun(config: RunConfig) -> bool:
    from raypose.storage import open_store

    return open_store(config.storage).child(config.name).exists("config.yaml")


def read_config(arguments: Sequence[str]) -> RunConfig:
    """The configuration that `FILE.yaml key=value …` means; the file may be left out if overrides say everything."""
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) > 1:
        raise ConfigError(f"one YAML file at a time, found {' and '.join(files)}; settings are KEY=VALUE")
    return load_config(files[0] if files else None, [argument for argument in arguments if "=" in argument])
