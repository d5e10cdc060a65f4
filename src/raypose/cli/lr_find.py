"""`raypose lr-find`: which learning rate a run might begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raypose.cli.data.progress import show_progress
from raypose.cli.train import FileAndOverrides, read_config


def lr_find(
    arguments: FileAndOverrides = [],  # noqa: B006
    steps: Annotated[int, typer.Option(min=20, help="Batches to train on at most.")] = 100,
    low: Annotated[float, typer.Option(min=1e-12, help="Learning rate to begin with.")] = 1e-6,
    high: Annotated[float, typer.Option(min=1e-11, help="Learning rate to end with.")] = 1.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("lr-find.png"),
) -> None:
    """Suggest train.lr0: train at growing learning rates until the loss runs away. No run is written.

    raypose lr-find configs/demo.yaml train.optimizer=SGD
    """
    from raypose import api

    with show_progress("training at growing rates", steps, "batches") as advance:
        test = api.find_learning_rate(
            read_config(arguments), device=device, steps=steps, low=low, high=high, out=out, progress=advance
        )
    typer.echo(f"train.lr0={test.suggestion:.2g}")
    if not test.ran_away:
        typer.echo(f"note: the loss did not run away up to {test.rates[-1]:g}; try a larger --high", err=True)
    typer.echo(f"picture: {out}")
