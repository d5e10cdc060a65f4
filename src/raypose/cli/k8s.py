"""`raypose k8s`: manifests for KubeRay, rendered and checked."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from raypose.cli.parsing import command_problem
from raypose.errors import ConfigError

app = typer.Typer(help="Render and check manifests for Kubernetes with KubeRay.", no_args_is_help=True)

Source = Annotated[str, typer.Argument(help="Folder of a kustomization, such as k8s/overlays/gpu, or a YAML file.")]


@app.command()
def lint(
    context: typer.Context,
    sources: Annotated[list[str], typer.Argument(help="Folders of kustomizations, or YAML files.")],
) -> None:
    """Check manifests by the rules of docs/kubernetes.md; exit code 2 and a line for each rule that is broken."""
    from raypose.k8s.lint import lint as findings_of
    from raypose.k8s.render import read

    problems = []
    for source in sources:
        manifests = read(source)
        found = findings_of(manifests, partial(command_problem, context.find_root().command))
        problems += [f"{source}: {finding}" for finding in found]
        if not found:
            typer.echo(f"{source}: {len(manifests)} objects, all rules kept")
    if problems:
        raise ConfigError(problems)


@app.command()
def render(
    context: typer.Context,
    source: Source,
    unique: Annotated[
        bool, typer.Option("--unique", help="Give each job a name with the time in it: a RayJob runs only once.")
    ] = False,
) -> None:
    """Print a kustomization's objects for 'kubectl apply -f -', checked as lint does.

    raypose k8s render k8s/overlays/gpu --unique | kubectl apply -f -
    """
    from raypose.k8s.lint import lint as findings_of
    from raypose.k8s.render import read, to_yaml, with_unique_jobs

    manifests = read(source)
    if unique:
        manifests = with_unique_jobs(manifests, datetime.now())
    found = findings_of(manifests, partial(command_problem, context.find_root().command))
    if found:
        raise ConfigError([f"{source}: {finding}" for finding in found])
    typer.echo(to_yaml(manifests), nl=False)


@app.command()
def monitoring(
    root: Annotated[Path, typer.Argument(help="Folder that receives k8s/ and cluster/, such as a checkout.")],
) -> None:
    """Write dashboards, alerts and what Prometheus scrapes, for Kubernetes and for a Prometheus of one's own."""
    from raypose.monitoring.files import write_files

    written = write_files(root)
    typer.echo("\n".join(f"wrote {name}" for name in written) or "all files are there as they should be")
