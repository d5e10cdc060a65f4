"""`raypose data export`: shard sets into other people's formats."""

from __future__ import annotations

from typing import Annotated

import typer

from raypose.cli.data.look import ShardSetArgument, open_shard_set
from raypose.cli.data.progress import show_progress

OutArgument = Annotated[str, typer.Argument(metavar="OUT", help="Empty or new folder, or s3:// URL.")]


def coco(shard_set: ShardSetArgument, out: OutArgument) -> None:
    """Export images/ and annotations.json; importing them gives the same samples again."""
    from raypose.data.exporters.coco import export_coco

    opened = open_shard_set(shard_set)
    with show_progress("export", len(opened)) as progress:
        annotations = export_coco(opened, out, progress=progress)
    typer.echo(f"wrote {out}: {len(opened):,} images with {annotations:,} annotations")


def yolo(
    shard_set: ShardSetArgument,
    out: OutArgument,
    val: Annotated[str | None, typer.Option(metavar="SET", help="A second set, exported as the val split.")] = None,
) -> None:
    """Export data.yaml, images/ and labels/ for Ultralytics, and say what they cannot hold."""
    from raypose.data.exporters.yolo import export_yolo

    train, other = open_shard_set(shard_set), None if val is None else open_shard_set(val)
    total = len(train) + (len(other) if other else 0)
    with show_progress("export", total) as progress:
        losses = export_yolo(train, out, val=other, progress=progress)
    for line in losses.in_words():
        typer.echo(f"note: {line}")
    if other is None:
        typer.echo(
            "note: data.yaml names these images as train and as val, for Ultralytics wants both; --val gives others"
        )
    typer.echo(f"wrote {out}: {total:,} images, with a data.yaml for 'yolo pose train'")
