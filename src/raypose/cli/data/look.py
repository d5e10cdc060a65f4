"""`raypose data verify`, `stats` and `show`: what is in a shard set, and whether it is well."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raypose.cli.data.build import shards_in_words
from raypose.cli.data.progress import show_progress

if TYPE_CHECKING:
    from raypose.data.shard_set import ShardSet
    from raypose.data.stats import Stats

ShardSetArgument = Annotated[str, typer.Argument(metavar="SET", help="Folder of a shard set.")]


def verify(
    shard_set: ShardSetArgument,
    processes: Annotated[int, typer.Option(min=1, help="Processes to share the work.")] = os.cpu_count() or 1,
) -> None:
    """Read every byte: checksums, records and images. Exit code 3 and one line for each fault."""
    from raypose.errors import ShardCorruptError

    opened = open_shard_set(shard_set)
    faults = 0
    with show_progress("verify", len(opened)) as progress:
        for done, fault in enumerate(opened.verify(processes=processes), start=1):
            if fault is not None:
                faults += 1
                record = "" if fault.record is None else f", record {fault.record}"
                typer.echo(f"{fault.shard}{record}: {fault.reason}")
            progress(min(done, len(opened)))
    if faults:
        found = "1 fault" if faults == 1 else f"{faults} faults"
        raise ShardCorruptError(f"{shard_set}: {found}; fetch the shards again or rebuild the set")
    typer.echo(f"{shard_set}: {len(opened):,} samples in {shards_in_words(opened.manifest)}, all well")


def stats(
    shard_set: ShardSetArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    html: Annotated[Path | None, typer.Option(help="Page to write, with plots, as one .html file.")] = None,
) -> None:
    """Count images, people and keypoints; with --html also plot them."""
    from raypose.data.stats import collect_stats
    from raypose.errors import ConfigError

    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--html {html}: expected a name that ends in .html")
    opened = open_shard_set(shard_set)
    with show_progress("stats", len(opened)) as progress:
        collected = collect_stats(opened, progress)
    if as_json:
        typer.echo(json.dumps(collected.to_dict(), indent=2))
    else:
        typer.echo("\n".join(_stats_lines(collected, opened)))
    if html is not None:
        from raypose.data.stats_page import render_stats

        write_file(html, render_stats(collected, shard_set).encode())
        typer.echo(f"wrote {html}", err=as_json)


def show(
    shard_set: ShardSetArgument,
    out: Annotated[Path, typer.Option(help="Picture to write, .png or .jpg.")],
    samples: Annotated[int, typer.Option(min=1, help="How many images.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the images.")] = 0,
) -> None:
    """Draw labelled images on one sheet: the quickest way to see that labels are right."""
    import numpy as np

    from raypose.errors import ConfigError
    from raypose.vision.decode import decode_rgb
    from raypose.vision.draw import contact_sheet, draw_people, encode_jpeg, encode_png

    encoders = {".png": encode_png, ".jpg": encode_jpeg, ".jpeg": encode_jpeg}
    if out.suffix.lower() not in encoders:
        raise ConfigError(f"--out {out}: expected a name that ends in .png or .jpg")
    opened = open_shard_set(shard_set)
    chosen = np.random.default_rng(seed).choice(len(opened), min(samples, len(opened)), replace=False)
    tiles = []
    for place in sorted(int(index) for index in chosen):
        sample = opened.sample(*opened.locate(place))
        drawn = draw_people(decode_rgb(sample.image, sample.id), sample.people, opened.skeleton)
        tiles.append((drawn, sample.id))
    sheet = contact_sheet(tiles, columns=max(1, round(len(tiles) ** 0.5)), tile_px=320)
    write_file(out, encoders[out.suffix.lower()](sheet))
    typer.echo(f"wrote {out}")


def open_shard_set(url: str) -> ShardSet:
    from raypose.data.shard_set import ShardSet

    return ShardSet.open(url)


def write_file(path: Path, content: bytes) -> None:
    """Write a file for people to look at, its folder included."""
    from raypose.errors import StorageError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(f"{path}: cannot write: {error.strerror or error}") from error


def _stats_lines(stats: Stats, shard_set: ShardSet) -> list[str]:
    images = ", ".join(f"{people}: {count:,}" for people, count in stats.people_per_image.items())
    classes = ", ".join(f"{name} {count:,}" for name, count in stats.people_per_class.items())
    sizes = ", ".join(f"{quantile:.0%} {size:g}" for quantile, size in stats.box_size_px.items())
    widest = max(len(item.name) for item in stats.keypoints)
    return [
        f"{shard_set.url}: {stats.size_bytes / 2**20:,.1f} MiB in {shards_in_words(shard_set.manifest)}",
        f"images             {stats.images:,} ({stats.images_without_people:,} without people)",
        f"annotations        {stats.annotations:,}",
        f"labelled people    {stats.labelled_people:,} ({classes})",
        f"ignored            {stats.ignored:,} ({stats.crowds:,} crowds, {stats.empty_people:,} without keypoints)",
        f"people per image   {images}",
        f"box size in px     {sizes}",
        f"image size in px   {_range(stats.image_width_px)} wide, {_range(stats.image_height_px)} high",
        "",
        f"{'keypoint':<{widest}}  {'visible':>9}  {'hidden':>9}  {'unlabelled':>10}",
        *(
            f"{item.name:<{widest}}  {item.visible:>9,}  {item.hidden:>9,}  {item.unlabelled:>10,}"
            for item in stats.keypoints
        ),
    ]


def _range(quantiles: dict[float, float]) -> str:
    if not quantiles:
        return "–"
    low, high = quantiles[0.0], quantiles[1.0]
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
