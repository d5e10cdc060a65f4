"""The commands and their places. Heavy imports wait inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import typer

from raypose.cli import cluster, config, data, k8s, runs
from raypose.cli.batch_find import batch_find
from raypose.cli.compare import compare
from raypose.cli.doctor import doctor
from raypose.cli.export import export
from raypose.cli.lr_find import lr_find
from raypose.cli.predict import predict
from raypose.cli.serve import serve
from raypose.cli.submit import SETTINGS as SUBMIT_SETTINGS
from raypose.cli.submit import submit
from raypose.cli.train import train
from raypose.cli.tune import tune
from raypose.cli.val import val

app = typer.Typer(
    help="Train, validate and use YOLO pose models, distributed on Ray.",
    epilog="A first run:  raypose data synth people --samples 500 --seed 1  ·  raypose data build people shards  ·  "
    "raypose train configs/demo.yaml data.train=shards data.val=shards",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def root(debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error.")) -> None:
    """Train, validate and use YOLO pose models, distributed on Ray."""


app.command()(train)
app.command("lr-find")(lr_find)
app.command("batch-find")(batch_find)
app.command()(tune)
app.command()(val)
app.command()(compare)
app.command()(predict)
app.command()(serve)
app.command()(export)
app.command(context_settings=SUBMIT_SETTINGS)(submit)
app.add_typer(data.app, name="data")
app.add_typer(runs.app, name="runs")
app.add_typer(config.app, name="config")
app.add_typer(cluster.app, name="cluster")
app.add_typer(k8s.app, name="k8s")
app.command()(doctor)
