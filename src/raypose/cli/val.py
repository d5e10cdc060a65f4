"""`raypose val`: the numbers of a checkpoint, or of anybody's predictions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from raypose.cli.data.progress import Advance, show_progress
from raypose.errors import ConfigError
from raypose.structures import json_ready


def val(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="Run, checkpoint, .pt or exported model. A run stands for its best checkpoint.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Shard set; by default the one the run was validated on.")] = None,
    split: Annotated[Literal["val", "train"], typer.Option(help="Which data of the run, without --data.")] = "val",
    imgsz: Annotated[int | None, typer.Option(help="Image side in pixels; by default the model's own.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images predicted together; by default the run's val.batch, or 16.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"] | None,
        typer.Option(help="auto is bfloat16 where the hardware has it; by default the run's train.precision, or auto."),
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Also look at each image mirrored.")] = False,
    scales: Annotated[str, typer.Option(help="Look at each image at these sizes, such as 0.83,1,1.17.")] = "1",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Have so many Ray workers predict; by default this process does.")
    ] = None,
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

    if predictions is not None or annotations is not None:
        if predictions is None or annotations is None or model is not None:
            raise ConfigError("val: --predictions and --annotations go together, without a model")
        _refuse_settings_of_models(context)
        metrics: dict[str, float | None] = {**api.validate_files(predictions, annotations, protocol=protocol or "coco")}
    elif model is None:
        raise ConfigError("val: name a run, a checkpoint or a model file")
    elif data is not None and "split" in _given(context):
        raise ConfigError("val: --split chooses among the data of the run; leave it out with --data")
    else:
        with _shown_progress() as progress:
            evaluation = api.validate(
                model,
                data=data,
                split=split,
                imgsz=imgsz,
                batch=batch,
                device=device,
                precision=precision,
                flip=flip,
                scales=_numbers(scales),
                workers=workers,
                protocol=protocol,
                out=out,
                progress=progress,
            )
        metrics = json_ready(evaluation.metrics)
        for note in evaluation.notes:
            typer.echo(f"note: {note}", err=True)
    if as_json:
        typer.echo(json.dumps(metrics))
    else:
        _print(metrics, out)


def _refuse_settings_of_models(context: typer.Context) -> None:
    """Raise ConfigError for options that say how to predict, where predictions are there already."""
    odd = [name for name in _given(context) if name not in ("predictions", "annotations", "protocol", "as_json")]
    if odd:
        raise ConfigError(f"val: --{odd[0]} is for models; with --predictions there are --protocol and --json")


def _given(context: typer.Context) -> list[str]:
    """The parameters that stand on the command line."""
    return [name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]


def _print(metrics: Mapping[str, float | None], out: str | None) -> None:
    from raypose.evaluate.run import COUNTS
    from raypose.storage import open_store

    for name, value in metrics.items():
        digits = 0 if name in COUNTS else 4
        typer.echo(f"{name:<24}{'-' if value is None else f'{value:.{digits}f}'}")
    if out is not None:
        typer.echo(f"report: {open_store(out).place('index.html')}")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--scales {text}: expected numbers with commas between them, such as 0.83,1,1.17") from error


@contextmanager
def _shown_progress() -> Iterator[Callable[[int, int], None]]:
    """A callback for the images done and all images, which shows them once it knows the latter."""
    advance: Advance | None = None
    with ExitStack() as stack:

        def show(done: int, total: int) -> None:
            nonlocal advance
            advance = advance or stack.enter_context(show_progress("validating", total))
            advance(done)

        yield show
