"""`raypose export`: a model for other runtimes, with the same answers."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def export(
    model: Annotated[str, typer.Argument(help="Run (its best checkpoint), checkpoint or .pt, by path or s3:// URL.")],
    to: Annotated[Literal["onnx", "openvino", "torchscript"], typer.Option("--format", help="Target format.")] = "onnx",
    out: Annotated[
        str | None, typer.Option(help="Path or URL to write to; by default weights/ of a local run.")
    ] = None,
    imgsz: Annotated[int | None, typer.Option(help="Image side in pixels; by default the model's own.")] = None,
    dynamic: Annotated[bool, typer.Option(help="Accept any image size and batch.")] = False,
) -> None:
    """Export a model; the exported file finds the same keypoints, and `val` and `predict` accept it."""
    from raypose import api

    typer.echo(f"wrote {api.export(model, to=to, out=out, imgsz=imgsz, dynamic=dynamic)}")
