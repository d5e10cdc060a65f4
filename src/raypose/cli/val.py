"""`raypose val`: the numbers of a checkpoint, or of anybody's predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from raypose.errors import ConfigError
from raypose.structures import json_ready


def val(
    model: Annotated[
        str | None, typer.Argument(help="Run, checkpoint, .pt or exported model. A run stands for its best checkpoint.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Shard set; by default the one the run was validated on.")] = None,
    split: Annotated[Literal["val", "train"], typer.Option(help="Which data of the run, without --data.")] = "val",
    imgsz: Annotated[int | None, typer.Option(help="Image side in pixels; by default the model's own.")] = None,
    out: Annotated[str | None, typer.Option(help="Place for the report; by default none is written.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="COCO results JSON to judge instead of a model.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="COCO keypoint JSON that --predictions belong to.")] = None,
    protocol: Annotated[
        Literal["coco", "crowdpose"] | None,
        typer.Option(help="Whose rules AP and AR follow; by default the run's, or coco for --predictions."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Validate a model on a shard set: COCO's AP and AR, PCK, precision, recall, F1."""
    from raypose import api
    from raypose.storage import open_store

    if predictions is not None or annotations is not None:
        if predictions is None or annotations is None or model is not None:
            raise ConfigError("val: --predictions and --annotations go together, without a model")
        metrics: dict[str, float | None] = {**api.validate_files(predictions, annotations, protocol=protocol or "coco")}
    elif model is None:
        raise ConfigError("val: name a run, a checkpoint or a model file")
    else:
        evaluation = api.validate(model, data=data, split=split, imgsz=imgsz, protocol=protocol, out=out)
        metrics = json_ready(evaluation.metrics)
        for note in evaluation.notes:
            typer.echo(f"note: {note}", err=True)
    if as_json:
        typer.echo(json.dumps(metrics))
        return
    for name, value in metrics.items():
        typer.echo(f"{name:<24}{'-' if value is None else f'{value:.4f}'}")
    if out is not None:
        typer.echo(f"report: {open_store(out).place('index.html')}")
