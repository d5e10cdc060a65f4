"""What travels with a job: its configuration, checked and complete, and the user's own code that it names."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from raypose.config import RunConfig, dump_config, load_config
from raypose.config.load import load_placed
from raypose.errors import ConfigError
from raypose.storage import is_remote

RUN_FILE = "run.yaml"
SWEEP_FILE = "sweep.yaml"
BASE_FILE = "base.yaml"

_RUN_COMMANDS = ("train", "lr-find", "batch-find")
"""What is given a run's file and settings that replace those of the file."""


def pack(words: Sequence[str], include: Iterable[Path], here: Path, folder: Path) -> list[str]:
    """Fill `folder` with what `raypose <words>`, as typed in `here`, needs, and return the words to run there.

    Everything that is wrong with the configuration is raised now, as ConfigError, and not by the job.
    """
    packed = list(words)
    for path in include:
        _copy(path if path.is_absolute() else here / path, folder)
    if words and words[0] in _RUN_COMMANDS:
        packed = [words[0], *_pack_run(words[0], list(words[1:]), here, folder)]
    elif words and words[0] == "tune":
        packed = ["tune", *_pack_sweep(list(words[1:]), here, folder)]
    return packed


def _pack_run(command: str, words: list[str], here: Path, folder: Path) -> list[str]:
    settings = [word for word in words if not word.startswith("-") and "=" in word]
    files = [
        word for word in words if not word.startswith("-") and word.endswith((".yaml", ".yml")) and "=" not in word
    ]
    if len(files) > 1:
        raise ConfigError(f"one YAML file at a time, found {' and '.join(files)}; settings are KEY=VALUE")
    if any(word.partition("=")[0] == "--resume" for word in words) or not (files or settings):
        return words  # a run that is there has its configuration in storage
    config = load_config(here / files[0] if files else None, settings)
    if command == "train":  # the others write no run
        _require_shared(config.storage, "storage")
    _require_shared_inputs(config)
    _write(folder / RUN_FILE, dump_config(config))
    _copy_own_code(config, here, folder)
    return [RUN_FILE, *(word for word in words if word not in (*files, *settings))]


def _pack_sweep(words: list[str], here: Path, folder: Path) -> list[str]:
    from raypose.tune.checks import sweep_of
    from raypose.tune.schema import SweepConfig

    files = [word for word in words if not word.startswith("-") and word.endswith((".yaml", ".yml"))]
    if len(files) != 1:
        return words
    path = here / files[0]
    config, places = load_placed(SweepConfig, path)
    base = load_config(path.parent / config.base)
    trial = sweep_of(config, base, places, str(path)).base  # base with the sweep's overrides
    _require_shared(config.storage, "storage")
    for place in config.warm_start:
        _require_shared(place, "warm_start")
    _require_shared_inputs(trial)
    values = config.model_dump(mode="json", exclude_unset=True)
    _write(folder / SWEEP_FILE, yaml.safe_dump({**values, "base": BASE_FILE}, sort_keys=False))
    _write(folder / BASE_FILE, dump_config(base))
    _copy_own_code(trial, here, folder)
    return [SWEEP_FILE, *(word for word in words if word not in files)]


def _require_shared_inputs(config: RunConfig) -> None:
    _require_shared(config.data.train, "data.train")
    _require_shared(config.data.val, "data.val")
    if config.model.pretrained is not None:
        _require_shared(config.model.pretrained, "model.pretrained")


def _require_shared(place: str, key: str) -> None:
    if not is_remote(place) and not Path(place).is_absolute():
        raise ConfigError(
            f"{key}: {place} is a folder of this machine; jobs need s3:// URLs, or absolute paths that all nodes see"
        )


def _copy_own_code(config: RunConfig, here: Path, folder: Path) -> None:
    """Modules beside the user that validators and callbacks name; what is installed is in the cluster's image."""
    uses = [*(one.use for one in config.val.validators), *(one.use for one in config.telemetry.callbacks)]
    for use in uses:
        module = use.partition(":")[0].partition(".")[0]
        for path in (here / f"{module}.py", here / module):
            if ":" in use and path.exists() and not (folder / path.name).exists():
                _copy(path, folder)


def _write(path: Path, text: str) -> None:
    if path.exists():
        raise ConfigError(
            f"--include {path.name}: the job has a file of this name with its whole configuration; leave yours out, or"
            " give it another name"
        )
    path.write_text(text, encoding="utf-8")


def _copy(path: Path, folder: Path) -> None:
    if (folder / path.name).exists():
        raise ConfigError(f"{path}: a second {path.name} for the same folder of the job; give one of them another name")
    try:
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__", ".git", ".venv"))
        else:
            shutil.copy(path, folder / path.name)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be sent along: {error.strerror or error}") from error
