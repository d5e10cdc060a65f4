"""A sweep file to a sweep whose every trial is a sound run, or to every problem at once. Nothing here imports Ray."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raypose.config import RunConfig, load_config
from raypose.config.load import KeyPath, check_values, load_placed
from raypose.errors import ConfigError
from raypose.storage import is_remote
from raypose.tune.schema import PLACES, Parameters, SweepConfig
from raypose.tune.space import corner_draws

MOST_CORNERS = 2000
"""Combinations of corners that are all checked, in about a second."""

_PLACE_KEYS = ("name", "storage")
_CHANGEABLE = (
    "train.lr0", "train.lrf", "train.cos_lr", "train.momentum", "train.weight_decay", "train.clip_norm", "train.box",
    "train.cls", "train.dfl", "train.pose", "train.kobj", "train.rle", "train.ema_decay", "train.ema_tau",
    "augment.",
)  # fmt: skip
"""What may differ before and after a checkpoint: neither the model nor what counts steps and batches."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep file with the run that it varies, checked."""

    config: SweepConfig
    base: RunConfig

    @property
    def metric(self) -> str:
        return self.config.metric or self.base.checkpoint.best_metric

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metric, and those `against` it."""
        return (self.metric, *self.config.against)

    def run_of(self, parameters: Parameters, *, name: str, storage: str) -> RunConfig:
        """The whole run that these parameters stand for."""
        values = with_parameters(self.base.model_dump(mode="json"), parameters)
        return check_values({**values, "name": name, "storage": storage}, {}, "sweep")


def load_sweep(path: str | Path) -> Sweep:
    """Read and check a sweep file and its base, to be run here; ConfigError has one line for each problem."""
    config, places = load_placed(SweepConfig, path)
    base = load_config(Path(path).parent / config.base, [])
    sweep = sweep_of(config.located(Path.cwd()), base, places, str(path))
    if missing := _missing_packages(sweep, str(path)):
        raise ConfigError(missing)
    return replace(sweep, base=sweep.base.located(Path.cwd()))


def sweep_of(config: SweepConfig, base: RunConfig, places: Mapping[KeyPath, str], name: str) -> Sweep:
    """A sweep file and its base as what they come to, wherever they will run.

    Local places stay as they are written; among the choices of the space those are refused that are no absolute paths,
    because there is no folder here that they would be found from.

    `places` says where the keys of the file stand, `name` is the file's. Raises ConfigError with one line for each
    problem.
    """
    sweep = Sweep(config, _overridden(base, config, places))
    problems = [
        *_kind_problems(sweep, places, name),
        *_place_problems(config, places, name),
        *_corner_problems(sweep, places, name),
    ]
    if problems:
        raise ConfigError(problems)
    return sweep


def with_parameters(values: Mapping[str, Any], parameters: Parameters) -> dict[str, Any]:
    """Values of a configuration with those of dotted keys laid over them."""
    laid: dict[str, Any] = deepcopy(dict(values))
    for dotted, value in parameters.items():
        *sections, key = dotted.split(".")
        target = laid
        for section in sections:
            if not isinstance(target.get(section), dict):
                target[section] = {}
            target = target[section]
        target[key] = list(value) if isinstance(value, tuple) else value
    return laid


def _overridden(base: RunConfig, config: SweepConfig, places: Mapping[KeyPath, str]) -> RunConfig:
    values = with_parameters(base.model_dump(mode="json"), config.overrides)
    return check_values(values, _places_of_keys(config.overrides, places, "overrides"), config.base)


def _places_of_keys(keys: Iterable[str], places: Mapping[KeyPath, str], section: str) -> dict[KeyPath, str]:
    """What a problem of a run's key is told as, when it stands under `section` of the sweep file."""
    return {
        tuple(key.split(".")): f"{places.get((section, key), places.get((section,), section))}: {section}"
        for key in keys
    }


def _kind_problems(sweep: Sweep, places: Mapping[KeyPath, str], name: str) -> list[str]:
    """What cannot be varied, whatever the values."""
    config, problems = sweep.config, []
    at = {key: places.get(("space", key), name) for key in config.space}
    for key in config.space:
        if key in _PLACE_KEYS or key.startswith("telemetry.") or key in config.overrides:
            reason = "is in overrides, too; keep one" if key in config.overrides else "cannot be varied; leave it out"
            problems.append(f"{at[key]}: space.{key}: {reason}")
        if config.is_population and not key.startswith(_CHANGEABLE):
            problems.append(
                f"{at[key]}: space.{key}: cannot change in the middle of a run, as {config.scheduler.use} has it; use"
                f" another scheduler,"
                f" or vary augment.* and {', '.join(_CHANGEABLE[:-1])}"
            )
    if sweep.base.telemetry.prometheus_port:
        problems.append(
            f"{name}: telemetry.prometheus_port: trials side by side cannot share port"
            f" {sweep.base.telemetry.prometheus_port}; set 0 or null"
        )
    if config.metric is None and sweep.metric in config.against:
        problems.append(f"{name}: against: {sweep.metric} is the metric already, that of base; name others")
    return problems + [f"{places.get(('scheduler',), name)}: {problem}" for problem in _epoch_problems(sweep)]


def _place_problems(config: SweepConfig, places: Mapping[KeyPath, str], name: str) -> list[str]:
    return [
        f"{places.get(('space', key), name)}: space.{key}: {place} is a folder of this machine; jobs need s3://"
        " URLs, or absolute paths that all nodes see"
        for key in PLACES
        for place in (config.space[key].choice or () if key in config.space else ())
        if isinstance(place, str) and not is_remote(place) and not Path(place).is_absolute()
    ]


def _missing_packages(sweep: Sweep, name: str) -> list[str]:
    """What the process that runs the sweep would miss."""
    problems = []
    if sweep.base.telemetry.mlflow is not None and importlib.util.find_spec("mlflow") is None:
        problems.append(f"{name}: telemetry.mlflow: the package mlflow is not installed; pip install 'raypose[mlflow]'")
    if sweep.config.searcher.use in ("tpe", "bohb") and importlib.util.find_spec("optuna") is None:
        problems.append(f"{name}: searcher.use: the package optuna is not installed; pip install 'raypose[tune]'")
    return problems


def _epoch_problems(sweep: Sweep) -> list[str]:
    """Schedulers that would never act, or not to the end, given when runs validate and end."""
    scheduler, val_every = sweep.config.scheduler, sweep.base.val.every_epochs
    if "train.epochs" in sweep.config.space:
        return []
    epochs = sweep.base.train.epochs
    if scheduler.use in ("asha", "hyperband", "median") and max(scheduler.min_epochs or 1, val_every) >= epochs:
        return [
            f"scheduler.min_epochs: runs of {epochs} epochs, validated every {val_every}, are over before"
            f" {scheduler.use} could end one; train for more epochs"
        ]
    every = scheduler.every_epochs or 1
    if sweep.config.is_population and every % val_every:
        return [
            f"scheduler.every_epochs: validation comes every {val_every} epochs (val.every_epochs), so that"
            f" generations of {every} have no value to go by; use a multiple of {val_every}"
        ]
    if sweep.config.is_population and every >= epochs:
        return [f"scheduler.every_epochs: runs of {epochs} epochs have one generation of {every}; use {epochs // 2}"]
    patience = sweep.base.train.patience
    if sweep.config.is_population and 0 < patience < epochs:
        return [
            f"scheduler.use: a member that train.patience {patience} ends before epoch {epochs} would end all of"
            f" {scheduler.use}, whose generations are of all members; set train.patience to 0 in overrides"
        ]
    return []


def _corner_problems(sweep: Sweep, places: Mapping[KeyPath, str], name: str) -> list[str]:
    """Every corner of the space, taken as the run that it would be."""
    values = sweep.base.model_dump(mode="json")
    of_keys = _places_of_keys(sweep.config.space, places, "space")
    problems: dict[str, None] = {}  # in order, each once
    for corner in corner_draws(sweep.config.space, MOST_CORNERS):
        try:
            run = check_values(with_parameters(values, corner), of_keys, f"{name}: space, with {_in_words(corner)}")
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
            continue
        problems |= dict.fromkeys(_unused(run, corner, places, name))
    # The same key may fail at several values: one line for it is enough to mend it.
    first: dict[str, str] = {}
    for problem in problems:
        place_and_key = problem.partition(", with ")[0].split(": ")[:3]
        first.setdefault(": ".join(place_and_key), problem)
    return list(first.values())


def _unused(run: RunConfig, corner: Parameters, places: Mapping[KeyPath, str], name: str) -> list[str]:
    if run.train.optimizer != "auto":
        return []
    return [
        f"{places.get(('space', key), name)}: space.{key}: train.optimizer 'auto' chooses it and ignores this one; set"
        f" train.optimizer in overrides, or a condition: when: {{train.optimizer: …}}"
        for key in ("train.lr0", "train.momentum")
        if key in corner
    ]


def _in_words(parameters: Parameters) -> str:
    return ", ".join(f"{key} {value}" for key, value in parameters.items())
