"""What travels with a job: its configuration, checked and complete, and the user's own code that it names."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from raypose.config import RunConfig, dump_config, load_config
from raypose.errors import ConfigError
from raypose.storage import is_remote

RUN_FILE = "run.yaml"
SWEEP_FILE = "sweep.yaml"
BASE_FILE = "base.yaml"


def pack(words: Sequence[str], include: Iterable[Path], here: Path, folder: Path) -> list[str]:
    """Fill `folder` with what `raypose <words>`, as typed in `here`, needs, and return the words to run there.

    Everything that is wrong with the configuration is raised now, as ConfigError, and not by the job.
    """
    packed = list(words)
    if words and words[0] == "train":
        packed = _pack_run(list(words[1:]), here, folder)
    elif words and words[0] == "tune":
        packed = _pack_sweep(list(words[1:]), here, folder)
    for path in include:
        _copy(path if path.is_absolute() else here / path, folder)
    return packed


def _pack_run(words: list[str], here: Path, folder: Path) -> list[str]:
    settings = [word for word in words if not word.startswith("-") and "=" in word]
    files = [
        word for word in words if not word.startswith("-") and word.endswith((".yaml", ".yml")) and "=" not in word
    ]
    if len(files) != 1:
        return ["train", *words]  # such as --resume RUN, which has its configuration in storage
    config = load_config(here / files[0], settings)
    _require_shared_places(config)
    (folder / RUN_FILE).write_text(dump_config(config), encoding="utf-8")
    _copy_own_code(config, here, folder)
    return ["train", RUN_FILE, *(word for word in words if word not in (*files, *settings))]


def _pack_sweep(words: list[str], here: Path, folder: Path) -> list[str]:
    from raypose.tune.checks import load_sweep

    files = [word for word in words if not word.startswith("-") and word.endswith((".yaml", ".yml"))]
    if len(files) != 1:
        return ["tune", *words]
    sweep = load_sweep(here / files[0])
    values = sweep.config.model_dump(mode="json", exclude_unset=True)
    _require_shared(sweep.config.storage, "storage")
    base = load_config(here / Path(files[0]).parent / sweep.config.base, [])
    _require_shared_places(base.model_copy(update={"storage": sweep.config.storage}))
    (folder / SWEEP_FILE).write_text(yaml.safe_dump({**values, "base": BASE_FILE}, sort_keys=False), encoding="utf-8")
    (folder / BASE_FILE).write_text(dump_config(base), encoding="utf-8")
    _copy_own_code(base, here, folder)
    return ["tune", SWEEP_FILE, *(word for word in words if word not in files)]


def _require_shared_places(config: RunConfig) -> None:
    places = {"storage": config.storage, "data.train": config.data.train, "data.val": config.data.val}
    if config.model.pretrained is not None:
        places["model.pretrained"] = config.model.pretrained
    for key, place in places.items():
        _require_shared(place, key)


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


def _copy(path: Path, folder: Path) -> None:
    try:
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__", ".git", ".venv"))
        else:
            shutil.copy(path, folder / path.name)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be sent along: {error.strerror or error}") from error
