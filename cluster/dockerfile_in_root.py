#!/usr/bin/env python3
"""Run the steps of cluster/Dockerfile where there is no Docker: in folders that begin as a fresh Debian.

    apt-get install debootstrap
    unshare --mount python3 cluster/dockerfile_in_root.py FOLDER --target cuda -- raypose doctor

As root. FOLDER gets a root for each stage and should have 20 GB; the command is run in the last one, as its user.
`python:*-slim` stands for Debian's own Python. Knows the instructions that the Dockerfile uses, and refuses others.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

ROOT = Path(__file__).parents[1]
PYTHON_IMAGE = re.compile(r"python:.*-slim-(\w+)")
MIRROR = "http://deb.debian.org/debian"
PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "PIP_DEFAULT_TIMEOUT")
CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")


@dataclass
class Stage:
    """A stage while it is built: its root, and what its instructions have set."""

    root: Path
    environment: dict[str, str]
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    folder: str = "/"
    user: str = "0"

    def run(self, command: list[str]) -> None:
        inside = ["/bin/sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", self.folder, *command]
        chroot = ["chroot", f"--userspec={self.user}:{self.user}", str(self.root)]
        subprocess.run([*chroot, *inside], env=self.environment, check=True)

    def path(self, inside: str) -> Path:
        return self.root / Path(self.folder, inside).relative_to("/")


def instructions(text: str) -> list[tuple[str, str]]:
    """(keyword, rest), continued lines joined and comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def debian(release: str, root: Path) -> None:
    """What the image of Python begins with, as far as Debian has it."""
    if not root.exists():
        packages = "python3,python3-venv,ca-certificates"
        partial = root.with_suffix(".partial")
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={packages}", release, partial, MIRROR], check=True
        )
        (partial / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        partial.rename(root)


def begin(base: str, name: str, stages: dict[str, Stage], folder: Path) -> Stage:
    """A new stage on another one, or on a fresh Debian."""
    image = PYTHON_IMAGE.fullmatch(base)
    if image:
        debian(image[1], folder / "debian")
        passed_on = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        parent = Stage(folder / "debian", {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", **passed_on})
    else:
        parent = stages[base]
    root = folder / name
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "-a", "--one-file-system", parent.root, root], check=True)
    for place in ("proc", "dev"):
        subprocess.run(["mount", "--rbind", f"/{place}", root / place], check=True)
    # How this machine reaches others is no part of the image.
    for place in (Path("etc/resolv.conf"), CERTIFICATES):
        shutil.copyfile(Path("/") / place, root / place)
    return Stage(root, dict(parent.environment), list(parent.shell), parent.folder, parent.user)


def copy(rest: str, stage: Stage, stages: dict[str, Stage]) -> None:
    """COPY: from the repository, or from another stage, which is linked and not doubled."""
    words = rest.split()
    source = re.fullmatch(r"--from=(\w[\w-]*)", words[0])
    if source:
        _, inside, target = words
        subprocess.run(["cp", "-al", stages[source[1]].root / inside.lstrip("/"), stage.path(target)], check=True)
        return
    *files, target = words
    destination = stage.path(target)
    for file in files:
        if (ROOT / file).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / file, destination, dirs_exist_ok=True, ignore=ignored)
        else:
            shutil.copy(ROOT / file, destination)


def execute(keyword: str, rest: str, stage: Stage, stages: dict[str, Stage]) -> None:
    match keyword:
        case "RUN":
            stage.run([*stage.shell, rest])
        case "ENV":
            for setting in rest.split():
                name, _, value = setting.partition("=")
                stage.environment[name] = Template(value).substitute(stage.environment)
        case "COPY":
            copy(rest, stage, stages)
        case "WORKDIR":
            stage.folder = rest
            stage.path("").mkdir(parents=True, exist_ok=True)
        case "USER":
            stage.user = rest
        case "SHELL":
            stage.shell = [word.strip().strip('"') for word in rest.strip("[]").split(",")]
        case _:
            raise SystemExit(f"Dockerfile: {keyword} is not known here")


def needed(target: str, parsed: list[tuple[str, str]]) -> set[str]:
    """The stages that a target is made of."""
    found, current = {target}, ""
    for keyword, rest in reversed(parsed):  # a stage comes after those that it needs
        if keyword == "FROM":
            base, _, current = rest.split()
            found |= {base} if current in found else set()
    for stage_of, source in copies(parsed):
        if stage_of in found and source not in found:
            found |= needed(source, parsed)
    return found


def copies(parsed: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """(stage, stage that it copies from)."""
    found, current = [], ""
    for keyword, rest in parsed:
        if keyword == "FROM":
            current = rest.split()[-1]
        if keyword == "COPY" and rest.startswith("--from="):
            found.append((current, rest.removeprefix("--from=").split()[0]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", default="cuda")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    parsed = instructions((ROOT / "cluster/Dockerfile").read_text())
    wanted = needed(options.target, parsed)
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for keyword, rest in parsed:
        if keyword == "ARG":
            name, _, arguments[name] = rest.partition("=")
        elif keyword == "FROM":
            base, _, name = Template(rest).substitute(arguments).split()
            stage = begin(base, name, stages, options.folder) if name in wanted else None
            if stage is not None:
                stages[name] = stage
        elif stage is not None:
            sys.stderr.write(f"== {keyword} {rest[:100]}\n")
            execute(keyword, rest, stage, stages)
    stages[options.target].run(options.command)


if __name__ == "__main__":
    main()
