"""`raypose serve`: a model behind HTTP until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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

    given = {"model": model if model and "=" not in model else None, "http.port": port, "http.host": host}
    first = [model] if model and "=" in model else []
    settings = (*first, *(overrides or ()), *(f"{key}={value}" for key, value in given.items() if value is not None))

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
