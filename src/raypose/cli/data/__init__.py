"""`raypose data`: from labelled images to shard sets, and what is in them."""

from __future__ import annotations

import typer

from raypose.cli.data.build import build, synth
from raypose.cli.data.importing import coco, yolo
from raypose.cli.data.look import show, stats, verify

app = typer.Typer(help="Build, import, check and show shard sets.", no_args_is_help=True)
import_app = typer.Typer(help="Turn a data set of another format into a shard set.", no_args_is_help=True)

for command in (build, verify, stats, show, synth):
    app.command()(command)
app.add_typer(import_app, name="import")
for command in (coco, yolo):
    import_app.command()(command)
