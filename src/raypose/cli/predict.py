"""`raypose predict`: people in images and videos, as JSON lines and as pictures."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from raypose.errors import DataError


def predict(
    source: Annotated[str, typer.Argument(help="Image, folder or video, by path or s3:// URL; or a glob in quotes.")],
    model: Annotated[str, typer.Option(help="Run, checkpoint, .pt or exported model, by path or s3:// URL.")],
    out: Annotated[str, typer.Option(help="Place for predictions.jsonl and the pictures.")] = "predictions",
    conf: Annotated[float, typer.Option(min=0.0, max=1.0, help="Least confidence of a person.")] = 0.25,
    iou: Annotated[float, typer.Option(min=0.0, max=1.0, help="IoU above which the worse box goes.")] = 0.7,
    imgsz: Annotated[int | None, typer.Option(help="Image side in pixels; by default the model's own.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images predicted at a time.")] = 8,
    pictures: Annotated[bool, typer.Option(help="Draw skeletons.")] = True,
    text: Annotated[
        Literal["none", "numbers", "names"], typer.Option(help="What is written beside each keypoint.")
    ] = "none",
    video_format: Annotated[
        Literal["mp4", "webm"], typer.Option(help="mp4 is fast and for players, webm is also for browsers.")
    ] = "mp4",
) -> None:
    """Find people and their keypoints: predictions.jsonl, and the pictures with skeletons drawn on them."""
    from raypose import api
    from raypose.batch import predict_source

    predictor = api.load(model, imgsz=imgsz, conf=conf, iou=iou)
    summary = predict_source(
        predictor,
        source,
        out,
        skeleton=predictor.spec.skeleton,
        pictures=pictures,
        keypoint_text=text,
        video_format=video_format,
        batch=batch,
    )
    typer.echo(str(summary))
    if summary.failures:
        raise DataError("\n".join(summary.failures))
