"""What the guide names is there: links, commands with their options, settings, and the figures of benchmarks."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel

from raypose.cli.parsing import command_problem
from raypose.cli.root import app
from raypose.config import RunConfig

PROJECT = Path(__file__).parents[2]
PAGES = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((PROJECT / "docs").glob("*.md")),
]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings outside code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        if not name.startswith("http") and (not found.exists() or (anchor and anchor not in anchors(found))):
            dead.append(target)
    assert dead == []


@each_page
def test_every_file_that_is_named_by_its_place_is_there(page: Path) -> None:
    named = re.findall(r"`((?:src|tests|benchmarks|cluster|configs|k8s|docs)/[\w./-]+)`", page.read_text())
    assert [name for name in named if not (PROJECT / name).exists()] == []


def commands(text: str) -> Iterator[list[str]]:
    """The lines of code that begin with `raypose`, without comments, pipes and redirections."""
    code = re.sub(r"\\\n\s+", "", text)
    for line in re.findall(r"^ {4,}(?:\.venv/bin/)?raypose (.+)$", code, re.MULTILINE):
        words = shlex.split(line.replace("[", "").replace("]", ""), comments=True)
        end = next((place for place, word in enumerate(words) if word in ("|", ">", "&")), len(words))
        if "…" not in words and "FOLDER-OR-FILE" not in words:  # a synopsis
            yield ["2" if word == "N" else word for word in words[:end]]


@each_page
def test_every_command_would_begin(page: Path) -> None:
    root = typer.main.get_command(app)
    told = {shlex.join(words): command_problem(root, inner(words)) for words in commands(page.read_text())}
    assert {line: problem for line, problem in told.items() if problem is not None} == {}


def inner(words: list[str]) -> list[str]:
    """The command that is submitted, if one is; `submit` takes whatever stands there."""
    if words[0] != "submit" or words[1].startswith("--"):
        return words
    return words[1:]


def test_a_command_with_an_option_that_is_not_there_is_found() -> None:
    (words,) = commands("    raypose data stats shards --htm page.html   # plots\n")
    assert "--htm" in str(command_problem(typer.main.get_command(app), words))


def settings(section: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        branch: Any = field.annotation
        yield prefix + name
        if isinstance(branch, type) and issubclass(branch, BaseModel):
            yield from settings(branch, f"{prefix}{name}.")


@each_page
def test_every_setting_that_is_named_is_one(page: Path) -> None:
    known = set(settings())
    sections = "|".join(sorted(name for name in known if any(key.startswith(f"{name}.") for key in known)))
    code = [span for line in page.read_text().splitlines() for span in re.findall(r"`([^`]+)`", line)]
    named = {key for span in code for key in re.findall(rf"(?<![\w./-])(?:{sections})\.[a-z0-9_]+(?=[:= ]|$)", span)}
    assert {key for key in named - known if Path(key).suffix not in (".json", ".md", ".pt", ".py", ".yaml")} == set()


def test_the_figures_of_the_readme_are_those_of_the_newest_results() -> None:
    text = (PROJECT / "README.md").read_text()
    found = {
        name: tuple(map(float, re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w,])", row)))
        for name, row in re.findall(r"^\| (.+?) \| (.+) \|$", text.partition("## Measured")[2], re.MULTILINE)
    }

    def row(beginning: str) -> tuple[float, ...]:
        return next(figures for name, figures in found.items() if name.startswith(beginning))

    accuracy, checkpoint, loader = newest("accuracy"), newest("checkpoint"), newest("loader")
    evaluate = newest("evaluate")
    serve, serve_float32 = (newest("serve", machine)["summary"] for machine in ("", "-one-core"))
    predict, predict_float32 = (newest("predict", machine)["summary"] for machine in ("", "-one-core"))
    train, train_float32 = newest("train_cpu"), newest("train_cpu", "-one-core")
    assert newest("chaos")["same"] and newest("chaos")["faults"] == 100
    assert row("accuracy") == rounded(accuracy["synth"]["ratio"], accuracy["lspet"]["ratio"], digits=2)
    assert row("a checkpoint") == rounded(checkpoint["ratio"], checkpoint["blocked_seconds_async"], digits=2)
    assert row("images from S3") == rounded(
        loader["ratio_warm"], loader["ratio_cold"], loader["ratio_cold_plain"], digits=1
    )
    assert row("`raypose val`") == rounded(evaluate["ratio_val"], evaluate["ratio_val_float32"], digits=1)
    assert row("training on a CPU") == rounded(
        *(one[key] for one in (train, train_float32) for key in ("ratio", "ratio_tuned")), digits=1
    )
    assert row("measuring") == rounded(evaluate["ratio"], digits=1)
    assert row("`raypose serve`") == rounded(
        *(one[key] for one in (serve, serve_float32) for key in ("ratio", "ratio_litserve")), digits=1
    )
    assert row("`raypose predict`") == rounded(predict["ratio_yolo"], predict_float32["ratio_yolo"], digits=1)
    assert newest("tune_overhead")["overhead"] <= 0, "a sweep is no slower"


def newest(benchmark: str, machine: str = "") -> dict[str, Any]:
    path = max((PROJECT / "benchmarks/results").glob(f"{benchmark}-????-??-??{machine}.json"))
    return dict(json.loads(path.read_text()))


def rounded(*values: float, digits: int) -> tuple[float, ...]:
    return tuple(round(value, digits) for value in values)
