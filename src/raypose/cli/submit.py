"""`raypose submit`: any other command as a job of a Ray cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from raypose.cli.parsing import command_problem
from raypose.errors import ConfigError

SETTINGS = {"allow_extra_args": True, "allow_interspersed_args": False, "ignore_unknown_options": False}


def submit(
    context: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND …", help="A command of raypose as you would type it.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Dashboard of the cluster; by default $RAY_API_SERVER_ADDRESS, or port 8265 of this machine."
        ),
    ] = None,
    include: Annotated[
        list[Path] | None, typer.Option(help="A file or folder that the job needs besides; may be given again.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the job; by default one is made up.")] = None,
    follow: Annotated[
        str | None, typer.Option(metavar="JOB", help="Follow a job that is there instead of submitting one.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job's log until it has ended.")] = True,
) -> None:
    """Run a command on a Ray cluster, follow its log, and end with its exit code. Ctrl-C stops it with a checkpoint.

    raypose submit train run.yaml storage=s3://poses/runs --continue

    raypose submit --follow raysubmit_h3Zq8c2

    Options of submit come before the command. The token of the cluster is read from RAY_AUTH_TOKEN.
    """
    from raypose.submit.job import Cluster

    words = list(command or ())
    if (follow is None) == (not words):
        raise ConfigError("submit: name a command such as 'train run.yaml', or --follow JOB")
    if follow is not None and (include or name is not None or not wait):
        raise ConfigError("submit: --include, --name and --no-wait are for a new job; leave them out with --follow")
    if follow is None:
        runs_here = words[0] in ("submit", "serve", "config")
        root = context.find_root().command
        problem = "is no command for a cluster" if runs_here else command_problem(root, words)
        if problem is not None:
            raise ConfigError(f"submit {words[0]}: {problem}")
    cluster = Cluster(address)
    job = follow or cluster.submit(words, include or (), name)
    typer.echo(f"job {job}  {cluster.link(job)}", err=True)
    if wait:
        cluster.follow(job, _print, lambda text: typer.echo(text, err=True))


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
