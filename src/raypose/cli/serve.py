"""`raypose serve`: a model behind HTTP until it is told to stop."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")
"""How one begins; an `s3://` URL with options has an equals sign, too."""


def serve(
    model: Annotated[
        str | None, typer.Argument(help="Run, checkpoint, .pt or exported model; by default the configuration's.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value on top of the file.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML such as configs/serve.yaml.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one.")] = None,
    host: Annotated[str | None, typer.Option(help="0.0.0.0 lets other machines ask.")] = None,
) -> None:
    """Answer HTTP requests with a model: JSON, pictures, a web page. SIGHUP reads the configuration again."""
    from raypose.config.serve_schema import ServeConfig, load_serve_config
    from raypose.errors import RayposeError
    from raypose.serve.local import serving, wait_for_end

    settings = settings_of([model, *(overrides or ())] if model else (), port=port, host=host)

    def read() -> ServeConfig:
        return load_serve_config(config, settings)

    with serving(read()) as running:

        def reload() -> None:
            try:
                running.change(read())
                typer.echo("the configuration was read again; /v1/models says what answers")
            except RayposeError as error:
                typer.echo(f"the change failed: {error}; correct the configuration and send SIGHUP again", err=True)

        typer.echo(f"serving at {running.url}  ·  page /  ·  API /docs  ·  metrics /metrics  ·  Ctrl-C ends it")
        wait_for_end(reload)
        typer.echo("draining …")


def settings_of(words: Sequence[str], *, port: int | None, host: str | None) -> tuple[str, ...]:
    """What stands on the command line, as overrides of the file: the first word may name the model."""
    names_model = bool(words) and not _OVERRIDE.match(words[0])
    given = {"model": words[0] if names_model else None, "http.port": port, "http.host": host}
    # As JSON, which is YAML: a model that is called 2024 is no number.
    values = (f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None)
    return (*(words[1:] if names_model else words), *values)
