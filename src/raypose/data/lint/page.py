"""Findings as one self-contained HTML page, with a picture of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from raypose.data.lint.findings import RULES, WHOLE_SET, Finding, Rule
from raypose.data.lint.pictures import picture_of
from raypose.data.shard_set import ShardSet
from raypose.pages import data_uri, render_page

MAX_PICTURES = 48
"""Of one rule; the others are only counted."""


@dataclass(frozen=True, slots=True)
class _Card:
    """One finding on the page; `picture` is empty where it concerns the whole set."""

    title: str
    message: str
    severity: str
    picture: str


@dataclass(frozen=True, slots=True)
class _Section:
    rule: Rule
    total: int
    cards: list[_Card]


def render_findings(findings: Sequence[Finding], shard_set: ShardSet, against: ShardSet | None, title: str) -> str:
    """The page as text. Reads and decodes the images that it shows again."""
    sections = []
    for name, rule in RULES.items():
        found = [finding for finding in findings if finding.rule == name]
        if found:
            cards = [_card(finding, shard_set, against) for finding in found[:MAX_PICTURES]]
            sections.append(_Section(rule, len(found), cards))
    counts = Counter(finding.severity for finding in findings)
    return render_page(
        "raypose.data",
        "lint.html.j2",
        eyebrow="raypose data lint",
        title=title,
        subtitle="" if against is None else f"against {against.url}",
        facts={
            "Images": f"{len(shard_set):,}",
            "Errors": f"{counts['error']:,}",
            "Warnings": f"{counts['warning']:,}",
            "Notes": f"{counts['note']:,}",
        },
        sections=sections,
    )


def _card(finding: Finding, shard_set: ShardSet, against: ShardSet | None) -> _Card:
    title = finding.sample_id or "the whole set"
    if finding.person is not None:
        title += f", person {finding.person}"
    if finding.place == WHOLE_SET:
        return _Card(title, finding.message, finding.severity, "")
    sample = shard_set.sample(*shard_set.locate(finding.place))
    twin = None
    if finding.twin is not None:
        place_of_twin = against if finding.rule == "leakage" and against is not None else shard_set
        twin = place_of_twin.sample(*place_of_twin.locate(finding.twin))
    picture = data_uri(picture_of(finding, sample, shard_set.skeleton, twin), title)
    return _Card(title, finding.message, finding.severity, picture)
