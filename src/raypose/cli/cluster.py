"""`raypose cluster`: several Ray nodes on this machine."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="A Ray cluster of several nodes on this machine, to try things on.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option(help="Where its state and logs are kept.")]
DEFAULT_FOLDER = Path(tempfile.gettempdir()) / "raypose-cluster"


@app.command()
def up(
    nodes: Annotated[int, typer.Option(min=1, max=64, help="How many, the head included.")] = 3,
    cpus: Annotated[float, typer.Option(min=0, help="Logical CPUs of each; more than there are is possible.")] = 2,
    folder: Folder = DEFAULT_FOLDER,
) -> None:
    """Start a cluster with a token of its own, and print what reaches it."""
    from raypose.launch import local_nodes

    cluster = local_nodes.up(folder, nodes=nodes, cpus=cpus)
    typer.echo(f"{nodes} nodes of {cpus:g} CPUs at {cluster.address}, dashboard {cluster.dashboard}")
    where = "" if folder == DEFAULT_FOLDER else f" --folder {shlex.quote(str(folder))}"
    typer.echo(f'use it:  eval "$(raypose cluster env{where})"\nend it:  raypose cluster down{where}')


@app.command()
def env(folder: Folder = DEFAULT_FOLDER) -> None:
    """Print the environment that reaches it, for 'eval "$(raypose cluster env)"'."""
    from raypose.launch import local_nodes

    for name, value in local_nodes.load(folder).environment.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command()
def down(folder: Folder = DEFAULT_FOLDER) -> None:
    """End its processes, by their numbers, and remove its files."""
    from raypose.launch import local_nodes

    typer.echo(f"ended {local_nodes.down(folder)} nodes")
