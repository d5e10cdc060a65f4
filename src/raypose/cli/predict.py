"""`raypose predict`: people in images and videos, as lines or rows and as pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from raypose.errors import DataError

if TYPE_CHECKING:
    from raypose.batch import PredictSummary, Progress

_LIVE_EVERY_S = 0.2
_PLAIN_LINE_EVERY_S = 10.0
_SHOWN_FAILURES = 20


def predict(
    source: Annotated[
        str, typer.Argument(help="Image, video, folder or shard set, by path or s3:// URL; or a glob in quotes.")
    ],
    model: Annotated[str, typer.Option(help="Run, checkpoint, .pt or exported model, by path or s3:// URL.")],
    out: Annotated[str, typer.Option(help="Place for predictions and pictures; goes on with what it has.")] = (
        "predictions"
    ),
    conf: Annotated[float, typer.Option(min=0.0, max=1.0, help="Least confidence of a person.")] = 0.25,
    iou: Annotated[float, typer.Option(min=0.0, max=1.0, help="IoU above which the worse box goes.")] = 0.7,
    imgsz: Annotated[int | None, typer.Option(help="Image side in pixels; by default the model's own.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="What layers compute in; bfloat16 takes half the time where the hardware has it."),
    ] = "float32",
    batch: Annotated[int, typer.Option(min=1, help="Images predicted at a time.")] = 8,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Have so many Ray workers predict; by default this process does.")
    ] = None,
    track: Annotated[bool, typer.Option("--track", help="Number the people of a video from frame to frame.")] = False,
    format: Annotated[  # noqa: A002 - the option's name
        Literal["jsonl", "parquet"], typer.Option(help="Lines of JSON, or rows of Parquet.")
    ] = "jsonl",
    pictures: Annotated[bool, typer.Option(help="Draw skeletons.")] = True,
    text: Annotated[
        Literal["none", "numbers", "names"], typer.Option(help="What is written beside each keypoint.")
    ] = "none",
    video_format: Annotated[
        Literal["mp4", "webm"], typer.Option(help="mp4 is fast and for players, webm is also for browsers.")
    ] = "mp4",
) -> None:
    """Find people and their keypoints: predictions/part-….jsonl, and pictures with the skeletons drawn on them."""
    from raypose import api

    with _shown_progress() as progress:
        summary = api.predict(
            model,
            source,
            out,
            imgsz=imgsz,
            device=device,
            precision=precision,
            conf=conf,
            iou=iou,
            batch=batch,
            workers=workers,
            track=track,
            pictures=pictures,
            text=text,
            video_format=video_format,
            format=format,
            progress=progress,
        )
    typer.echo(str(summary))
    if summary.failed:
        raise DataError("\n".join(_failures(summary)))


def _failures(summary: PredictSummary) -> Iterator[str]:
    yield from summary.failures[:_SHOWN_FAILURES]
    hidden = summary.failed - _SHOWN_FAILURES
    if hidden > 0:
        yield f"and {hidden:,} more; each has its error among the predictions"


@contextmanager
def _shown_progress() -> Iterator[Callable[[Progress], None]]:
    """A callback that shows how far it is: one line that changes on a terminal, now and then a line elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    live = console.is_terminal
    last_line_s = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal last_line_s
        if time.monotonic() - last_line_s >= (_LIVE_EVERY_S if live else _PLAIN_LINE_EVERY_S):
            last_line_s = time.monotonic()
            end = "   \r" if live else "\n"
            console.print(_line(progress), end=end, markup=False, highlight=False, soft_wrap=True)

    yield show
    if live:
        console.print()


def _line(progress: Progress) -> str:
    rate = progress.images / max(progress.seconds, 1e-6)
    line = f"predicting: {progress.done:,} of {progress.inputs:,}, {rate:,.1f} images/s"
    done_now = progress.done - progress.resumed
    if done_now:
        left_s = progress.seconds / done_now * (progress.inputs - progress.done)
        line += f", {timedelta(seconds=round(left_s))} left"
    return line
