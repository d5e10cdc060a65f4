"""`raypose data lint`: labels that are well formed, and yet look wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raypose.cli.data.look import ShardSetArgument, open_shard_set, write_file
from raypose.cli.data.progress import show_progress

if TYPE_CHECKING:
    from raypose.data.lint import Finding


def lint(
    shard_set: ShardSetArgument,
    against: Annotated[str | None, typer.Option(help="Another set, whose images should not be in this one.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for a page with a picture of each finding.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Rule to leave out; may be given several times.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="End with exit code 3 for errors and warnings.")] = False,
) -> None:
    """Look for swapped sides, impossible limbs, misplaced keypoints, duplicates and leakage."""
    from raypose.data.lint import RULES, lint_set
    from raypose.errors import ConfigError, DataError

    unknown = [name for name in skip or [] if name not in RULES]
    if unknown:
        raise ConfigError(f"--skip {unknown[0]}: no such rule; the rules are {', '.join(RULES)}")
    rules = [name for name in RULES if name not in (skip or [])]
    opened, other = open_shard_set(shard_set), None if against is None else open_shard_set(against)
    findings = []
    with show_progress("lint", 2 * len(opened) + (len(other) if other else 0)) as progress:
        for finding in lint_set(opened, other, rules=rules, progress=progress):
            findings.append(finding)
            if not as_json:
                typer.echo(_line(finding))
    report = {"set": opened.url, "against": other.url if other else None, "images": len(opened)}
    content = json.dumps({**report, "findings": [finding.to_dict() for finding in findings]}, indent=2)
    images = f"{len(opened):,} image{'' if len(opened) == 1 else 's'}"
    typer.echo(content if as_json else f"{opened.url}: {images}, {_in_words(findings)}")
    if out is not None:
        from raypose.data.lint.page import render_findings

        write_file(out / "index.html", render_findings(findings, opened, other, shard_set).encode())
        write_file(out / "findings.json", content.encode())
        typer.echo(f"wrote {out / 'index.html'}", err=as_json)
    grave = [finding for finding in findings if finding.severity != "note"]
    if strict and grave:
        raise DataError(f"{opened.url}: {_in_words(grave)}; correct the labels, or leave rules out with --skip")


def _line(finding: Finding) -> str:
    who = finding.sample_id or "the whole set"
    if finding.person is not None:
        who += f", person {finding.person}"
    return f"{finding.severity:<7}  {finding.rule}  {who}: {finding.message}"


def _in_words(findings: Sequence[Finding]) -> str:
    if not findings:
        return "nothing found"
    counts = Counter(finding.rule for finding in findings)
    total = "1 finding" if len(findings) == 1 else f"{len(findings):,} findings"
    return f"{total}: " + ", ".join(f"{count:,} {rule}" for rule, count in counts.most_common())
