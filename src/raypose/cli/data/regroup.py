"""`raypose data merge` and `data split`: shard sets from shard sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from raypose.cli.data.build import OnRay, OutOption, Overwrite, ShardMib, Workers, build_from
from raypose.cli.data.look import ShardSetArgument, open_shard_set
from raypose.cli.data.progress import show_progress

if TYPE_CHECKING:
    from raypose.data.importers import LabelledSource


def merge(
    sets: Annotated[list[str], typer.Argument(metavar="SET...", help="Shard sets of one skeleton, in this order.")],
    out: OutOption,
    prefix: Annotated[
        bool, typer.Option("--prefix", help="Put the name of its set before each id, where sets share ids.")
    ] = False,
    shard_mib: ShardMib = 64,
    overwrite: Overwrite = False,
    workers: Workers = None,
    ray: OnRay = None,
) -> None:
    """Put several shard sets together, such as COCO's and your own."""
    build_from(_source(sets, prefix=prefix), out, shard_mib, overwrite, workers, ray)


def split(
    shard_set: ShardSetArgument,
    train: Annotated[str, typer.Option(help="Folder or s3:// URL that receives the larger part.")],
    val: Annotated[str, typer.Option(help="Folder or s3:// URL that receives the share.")],
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="About this share of the images.")] = 0.1,
    by_folder: Annotated[
        bool, typer.Option("--by-folder", help="Keep images of a folder together, such as the frames of a video.")
    ] = False,
    shard_mib: ShardMib = 64,
    overwrite: Overwrite = False,
    workers: Workers = None,
    ray: OnRay = None,
) -> None:
    """Part a shard set in one to train on and one to validate on.

    The ids decide, so an image stays on its side when the set grows.
    """
    from raypose.data.importers.shard_sets import part

    parts = part(_source([shard_set]), share, by_folder=by_folder)
    for source, out in zip(parts, (train, val), strict=True):
        build_from(source, out, shard_mib, overwrite, workers, ray)


def _source(sets: list[str], *, prefix: bool = False) -> LabelledSource:
    from raypose.data.importers.shard_sets import read_shard_sets

    opened = [open_shard_set(one) for one in sets]
    with show_progress("read", sum(map(len, opened))) as progress:
        return read_shard_sets(opened, prefix=prefix, progress=progress)
