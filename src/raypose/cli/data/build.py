"""`raypose data build` and `data synth`: folders of labelled images, and shard sets from them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raypose.cli.data.progress import show_progress
from raypose.launch.cluster import cluster_address

if TYPE_CHECKING:
    from raypose.data.build import Runner
    from raypose.data.importers import LabelledSource
    from raypose.data.manifest import Manifest

OutOption = Annotated[str, typer.Option(help="Folder or s3:// URL that receives the shard set.")]
ShardMib = Annotated[int, typer.Option(min=1, help="MiB of images after which a shard is full.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the shard set that is there.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes, or Ray tasks at a time.", show_default="all cores")
]
OnRay = Annotated[
    bool | None,
    typer.Option("--ray/--no-ray", help="Spread the work over a Ray cluster.", show_default="if RAY_ADDRESS names one"),
]


def build(
    src: Annotated[str, typer.Argument(help="Folder or s3:// URL with images/, labels/ and dataset.yaml.")],
    out: Annotated[str, typer.Argument(help="Folder or s3:// URL that receives the shard set.")],
    shard_mib: ShardMib = 64,
    overwrite: Overwrite = False,
    workers: Workers = None,
    ray: OnRay = None,
) -> None:
    """Check a folder of images and label pickles and write it as a shard set.

    Killed half-way, the same command goes on where it was.
    """
    from raypose.data.importers.folder import read_folder

    build_from(read_folder(src), out, shard_mib, overwrite, workers, ray)


def synth(
    out: Annotated[Path, typer.Argument(help="Empty or new folder that receives images/, labels/ and dataset.yaml.")],
    samples: Annotated[int, typer.Option(min=1, help="How many images.")],
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal images.")],
    size: Annotated[int, typer.Option(min=64, help="Long side of the images in pixels.")] = 320,
    workers: Workers = None,
) -> None:
    """Make a synthetic data set of people with COCO's 17 keypoints, for trying things out."""
    from raypose.data.synth_folder import synthesize_folder

    with show_progress("synthesise", samples) as progress:
        synthesize_folder(samples, seed, size, out, runner=_runner(workers, ray=False), progress=progress)
    typer.echo(f"wrote {samples:,} images with labels to {out}; next: raypose data build {out} SHARDS")


def build_from(
    source: LabelledSource,
    out: str,
    shard_mib: int,
    overwrite: bool,
    workers: int | None,
    ray: bool | None,
) -> None:
    """Build and say what came of it; see the options above."""
    from raypose.data.build import build_shard_set

    for note in source.notes:
        typer.echo(f"note: {note}")
    with show_progress("build", len(source.images)) as progress:
        manifest = build_shard_set(
            source,
            out,
            shard_bytes=shard_mib << 20,
            overwrite=overwrite,
            runner=_runner(workers, ray),
            progress=progress,
            say=typer.echo,
        )
    counts = manifest.counts
    typer.echo(
        f"wrote {out}: {manifest.samples:,} images in {shards_in_words(manifest)};"
        f" {counts.people:,} annotations, of which {counts.labelled:,} labelled people"
        f" and {counts.ignored:,} ignored ({counts.crowds:,} crowds)"
    )


def shards_in_words(manifest: Manifest) -> str:
    return "1 shard" if len(manifest.shards) == 1 else f"{len(manifest.shards):,} shards"


def _runner(workers: int | None, ray: bool | None) -> Runner:
    if cluster_address() is not None if ray is None else ray:
        from raypose.launch.spread import RayTasks

        return RayTasks(workers)
    from raypose.data.build import LocalProcesses

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return LocalProcesses(workers or cores)
