"""`raypose batch-find`: how large a batch the GPU of this machine has room for."""

from __future__ import annotations

import typer

from raypose.cli.train import FileAndOverrides, read_config


def batch_find(
    arguments: FileAndOverrides = [],  # noqa: B006
) -> None:
    """Suggest train.batch: double the images of a virtual worker until they fill the GPU. No run is written.

    raypose batch-find configs/demo.yaml scaling.workers=4
    """
    from raypose.engine.batch_finder import find_batch

    config = read_config(arguments)
    found = find_batch(config, progress=lambda images: typer.echo(f"trying {images} images", err=True))
    typer.echo(f"train.batch={found.batch}")
    typer.echo(
        f"{found.micro_batch} images for each of {config.scaling.lanes} virtual workers take"
        f" {found.used_bytes / 2**30:.1f} of {found.free_bytes / 2**30:.1f} GiB"
    )
