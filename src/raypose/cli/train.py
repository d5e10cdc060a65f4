"""`raypose train`: one YAML file, a few overrides, a trained model."""

from __future__ import annotations

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
) -> None:
    """Train a model on the Ray cluster that RAY_ADDRESS names, or on this machine.

    raypose train configs/demo.yaml train.epochs=2 name=first

    raypose train --resume runs/first
    """
    from raypose import api
    from raypose.telemetry.progress import TerminalProgress

    if resume is None:
        if not arguments:
            raise ConfigError("train: name a YAML file (see configs/), or --resume RUN")
        config = read_config(arguments)
    else:
        config = api.run_config(resume, arguments)
    with TerminalProgress() as progress:
        summary = api.train(config, resume=resume is not None, report=progress)
    typer.echo(api.summary_text(summary))


def read_config(arguments: Sequence[str]) -> RunConfig:
    """The configuration that `FILE.yaml key=value …` means; the file may be left out if overrides say everything."""
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) > 1:
        raise ConfigError(f"one YAML file at a time, found {' and '.join(files)}; settings are KEY=VALUE")
    return load_config(files[0] if files else None, [argument for argument in arguments if "=" in argument])
