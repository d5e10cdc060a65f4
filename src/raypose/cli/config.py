"""`raypose config`: see, check and document configurations without running anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from raypose.cli.train import FileAndOverrides, read_config
from raypose.config import RunConfig, dump_config
from raypose.errors import StorageError

app = typer.Typer(help="Show, check and describe run configurations.", no_args_is_help=True)


@app.command()
def show(arguments: FileAndOverrides) -> None:
    """Print the whole configuration, defaults included, as YAML that `raypose train` accepts."""
    typer.echo(dump_config(read_config(arguments)), nl=False)


@app.command()
def check(arguments: FileAndOverrides) -> None:
    """Check a configuration; exit code 2 and one line for each problem if there are any."""
    config = read_config(arguments)
    typer.echo(f"{arguments[0]}: ok, recipe {config.recipe_digest()[:12]}")


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of the terminal.")] = None,
) -> None:
    """Print the JSON schema, for editors that complete and check YAML."""
    text = json.dumps(RunConfig.model_json_schema(), indent=2)
    if out is None:
        typer.echo(text)
    else:
        try:
            out.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise StorageError(
                f"{out}: cannot write: {error.strerror or error}; name a file in a folder that exists"
            ) from error
        typer.echo(f"wrote {out}")
