"""`raypose data`: from labelled images to shard sets, and what is in them."""

from __future__ import annotations

import typer

from raypose.cli.data import exporting, importing
from raypose.cli.data.build import build, synth
from raypose.cli.data.lint import lint
from raypose.cli.data.look import show, stats, verify
from raypose.cli.data.regroup import merge, split
from raypose.cli.data.sigmas import sigmas

app = typer.Typer(help="Build, import, check and show shard sets.", no_args_is_help=True)
import_app = typer.Typer(help="Turn a data set of another format into a shard set.", no_args_is_help=True)
export_app = typer.Typer(help="Write a shard set in another format.", no_args_is_help=True)

for command in (build, merge, split, verify, stats, lint, show, synth, sigmas):
    app.command()(command)
app.add_typer(import_app, name="import")
import_app.command()(importing.coco)
import_app.command()(importing.yolo)
import_app.command()(importing.mpii)
import_app.command()(importing.crowdpose)
import_app.command()(importing.cvat)
import_app.command()(importing.label_studio)
app.add_typer(export_app, name="export")
export_app.command()(exporting.coco)
export_app.command()(exporting.yolo)
