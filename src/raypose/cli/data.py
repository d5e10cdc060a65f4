"""`raypose data`: from labelled images to shard sets, and what is in them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from raypose.data.importers import LabelledSource
    from raypose.data.manifest import Manifest
    from raypose.data.shard_set import ShardSet
    from raypose.data.stats import Stats

app = typer.Typer(help="Build, import, check and show shard sets.", no_args_is_help=True)
import_app = typer.Typer(help="Turn a data set of another format into a shard set.", no_args_is_help=True)
app.add_typer(import_app, name="import")

_PLAIN_LINE_EVERY_S = 10.0

ShardSetArgument = Annotated[str, typer.Argument(metavar="SET", help="Folder of a shard set.")]
OutOption = Annotated[str, typer.Option(help="Folder that receives the shard set.")]
ShardMib = Annotated[int, typer.Option(min=1, help="MiB after which a shard is full.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the shard set that is there.")]


@app.command()
def build(
    src: Annotated[Path, typer.Argument(help="Folder with images/, labels/ and dataset.yaml.")],
    out: Annotated[str, typer.Argument(help="Folder that receives the shard set.")],
    shard_mib: ShardMib = 64,
    overwrite: Overwrite = False,
) -> None:
    """Check a folder of images and label pickles and write it as a shard set."""
    from raypose.data.importers.folder import read_folder

    _build(read_folder(src), out, shard_mib, overwrite)


@import_app.command()
def coco(
    images: Annotated[Path, typer.Option(help="Folder of the images.")],
    annotations: Annotated[Path, typer.Option(help="Keypoint JSON, such as person_keypoints_train2017.json.")],
    out: OutOption,
    shard_mib: ShardMib = 64,
    overwrite: Overwrite = False,
) -> None:
    """Import a COCO keypoint JSON with its images."""
    from raypose.data.importers.coco import read_coco

    _build(read_coco(annotations, images), out, shard_mib, overwrite)


@import_app.command()
def yolo(
    data_yaml: Annotated[Path, typer.Argument(help="Ultralytics' data.yaml of a pose data set.")],
    split: Annotated[str, typer.Option(help="train, val or test.")],
    out: OutOption,
    shard_mib: ShardMib = 64,
    overwrite: Overwrite = False,
) -> None:
    """Import one split of an Ultralytics data set with YOLO text labels."""
    from raypose.data.importers.yolo_txt import read_yolo

    _build(read_yolo(data_yaml, split), out, shard_mib, overwrite)


@app.command()
def verify(shard_set: ShardSetArgument) -> None:
    """Read every byte: checksums, records and images. Exit code 3 and one line for each fault."""
    from raypose.errors import ShardCorruptError

    opened = _open(shard_set)
    faults = 0
    with _progress("verify", len(opened)) as progress:
        for done, fault in enumerate(opened.verify(), start=1):
            if fault is not None:
                faults += 1
                record = "" if fault.record is None else f", record {fault.record}"
                typer.echo(f"{fault.shard}{record}: {fault.reason}")
            progress(min(done, len(opened)))
    if faults:
        found = "1 fault" if faults == 1 else f"{faults} faults"
        raise ShardCorruptError(f"{shard_set}: {found}; fetch the shards again or rebuild the set")
    typer.echo(f"{shard_set}: {len(opened):,} samples in {_shards(opened.manifest)}, all well")


@app.command()
def stats(
    shard_set: ShardSetArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Count images, people and keypoints."""
    from raypose.data.stats import collect_stats

    opened = _open(shard_set)
    collected = collect_stats(opened)
    if as_json:
        typer.echo(json.dumps(collected.to_dict(), indent=2))
    else:
        typer.echo("\n".join(_stats_lines(collected, opened)))


@app.command()
def show(
    shard_set: ShardSetArgument,
    out: Annotated[Path, typer.Option(help="Picture to write, .png or .jpg.")],
    samples: Annotated[int, typer.Option(min=1, help="How many images.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the images.")] = 0,
) -> None:
    """Draw labelled images on one sheet: the quickest way to see that labels are right."""
    import numpy as np

    from raypose.errors import ConfigError, StorageError
    from raypose.vision.decode import decode_rgb
    from raypose.vision.draw import contact_sheet, draw_people, encode_jpeg, encode_png

    encoders = {".png": encode_png, ".jpg": encode_jpeg, ".jpeg": encode_jpeg}
    if out.suffix.lower() not in encoders:
        raise ConfigError(f"--out {out}: expected a name that ends in .png or .jpg")
    opened = _open(shard_set)
    chosen = np.random.default_rng(seed).choice(len(opened), min(samples, len(opened)), replace=False)
    tiles = []
    for place in sorted(int(index) for index in chosen):
        sample = opened.sample(*opened.locate(place))
        drawn = draw_people(decode_rgb(sample.image, sample.id), sample.people, opened.skeleton)
        tiles.append((drawn, sample.id))
    sheet = contact_sheet(tiles, columns=max(1, round(len(tiles) ** 0.5)), tile_px=320)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(encoders[out.suffix.lower()](sheet))
    except OSError as error:
        raise StorageError(f"{out}: cannot write: {error.strerror or error}") from error
    typer.echo(f"wrote {out}")


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="Empty or new folder that receives images/, labels/ and dataset.yaml.")],
    samples: Annotated[int, typer.Option(min=1, help="How many images.")],
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal images.")],
    size: Annotated[int, typer.Option(min=64, help="Long side of the images in pixels.")] = 320,
) -> None:
    """Make a synthetic data set of people with COCO's 17 keypoints, for trying things out."""
    from raypose.data.importers.folder import write_folder
    from raypose.data.synth import synthesize
    from raypose.structures import COCO_PERSON

    with _progress("synthesise", samples) as progress:
        write_folder(synthesize(samples, seed, size), COCO_PERSON, ("person",), out, progress=progress)
    typer.echo(f"wrote {samples:,} images with labels to {out}; next: raypose data build {out} SHARDS")


def _build(source: LabelledSource, out: str, shard_mib: int, overwrite: bool) -> None:
    from raypose.data.build import build_shard_set

    for note in source.notes:
        typer.echo(f"note: {note}")
    with _progress("build", source.count) as progress:
        manifest = build_shard_set(
            source.samples,
            source.skeleton,
            source.class_names,
            out,
            shard_bytes=shard_mib << 20,
            overwrite=overwrite,
            progress=progress,
        )
    counts = manifest.counts
    typer.echo(
        f"wrote {out}: {manifest.samples:,} images in {_shards(manifest)};"
        f" {counts.people:,} annotations, of which {counts.labelled:,} labelled people"
        f" and {counts.ignored:,} ignored ({counts.crowds:,} crowds)"
    )


def _shards(manifest: Manifest) -> str:
    return "1 shard" if len(manifest.shards) == 1 else f"{len(manifest.shards):,} shards"


def _open(url: str) -> ShardSet:
    from raypose.data.shard_set import ShardSet

    return ShardSet.open(url)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A callback for the number done: a bar with rate on a terminal, now and then a line elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    started_s = last_line_s = time.monotonic()
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(done: int) -> None:
            nonlocal last_line_s
            now_s = time.monotonic()
            rate = f"{done / max(now_s - started_s, 1e-6):,.0f} images/s"
            bar.update(task, completed=done, rate=rate)
            if not console.is_terminal and now_s - last_line_s >= _PLAIN_LINE_EVERY_S:
                last_line_s = now_s
                console.print(f"{what}: {done:,} of {total:,}, {rate}", highlight=False)

        yield advance


def _stats_lines(stats: Stats, shard_set: ShardSet) -> list[str]:
    images = ", ".join(f"{people}: {count:,}" for people, count in stats.people_per_image.items())
    classes = ", ".join(f"{name} {count:,}" for name, count in stats.people_per_class.items())
    sizes = ", ".join(f"{quantile:.0%} {size:g}" for quantile, size in stats.box_size_px.items())
    widest = max(len(item.name) for item in stats.keypoints)
    return [
        f"{shard_set.url}: {stats.size_bytes / 2**20:,.1f} MiB in {_shards(shard_set.manifest)}",
        f"images             {stats.images:,} ({stats.images_without_people:,} without people)",
        f"annotations        {stats.annotations:,}",
        f"labelled people    {stats.labelled_people:,} ({classes})",
        f"ignored            {stats.ignored:,} ({stats.crowds:,} crowds, {stats.empty_people:,} without keypoints)",
        f"people per image   {images}",
        f"box size in px     {sizes}",
        "",
        f"{'keypoint':<{widest}}  {'visible':>9}  {'hidden':>9}  {'unlabelled':>10}",
        *(
            f"{item.name:<{widest}}  {item.visible:>9,}  {item.hidden:>9,}  {item.unlabelled:>10,}"
            for item in stats.keypoints
        ),
    ]
