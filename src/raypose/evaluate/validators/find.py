"""From what the configuration says of validators to validators, or to every problem at once."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from raypose.config import ValidatorConfig
from raypose.errors import ConfigError
from raypose.evaluate.validators.keypoint_guard import KeypointGuard
from raypose.evaluate.validators.pck_report import PckReport
from raypose.evaluate.validators.protocol import NamedValidator

ENTRY_POINTS = "raypose.validators"
BUILT_IN: Mapping[str, Callable[..., Any]] = {"pck_report": PckReport, "keypoint_guard": KeypointGuard}


def find_validators(wanted: Sequence[ValidatorConfig]) -> tuple[NamedValidator, ...]:
    """Import and construct each; ConfigError names every one that cannot be had."""
    found: list[NamedValidator] = []
    problems: list[str] = []
    for place, entry in enumerate(wanted):
        try:
            found.append(NamedValidator(entry.name or _default_name(entry.use), _build(entry)))
        except ConfigError as error:
            problems += [f"val.validators[{place}]: {problem}" for problem in error.problems]
    names = [one.name for one in found]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        problems.append(f"val.validators: {names.count(name)} are named {name!r}; give each a 'name' of its own")
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def _default_name(use: str) -> str:
    return use.rpartition(":")[2].rpartition(".")[2]


def _build(entry: ValidatorConfig) -> Any:
    target = _import(entry.use) if ":" in entry.use else _by_short_name(entry.use)
    if not inspect.isclass(target):
        _require_takes(entry, target, None, None, **entry.args)
        return partial(target, **entry.args)
    _require_takes(entry, target, **entry.args)
    try:
        validator = target(**entry.args)
    except Exception as error:
        raise ConfigError(f"{entry.use}: cannot be made with {entry.args}: {error}; mend its args") from error
    _require_takes(entry, validator, None, None)
    return validator


def _require_takes(entry: ValidatorConfig, target: Any, *places: None, **arguments: object) -> None:
    """Refuse what cannot be called like this, without calling it."""
    try:
        inspect.signature(target).bind(*places, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{entry.use}: is no validator for these args: {error}; it is a function of (results, context, **args),"
            " or a class made with args whose instances are called with (results, context)"
        ) from error


def _import(use: str) -> Any:
    module_name, _, attribute = use.partition(":")
    _search_current_folder()
    try:
        target: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except Exception as error:
        raise ConfigError(
            f"{use} cannot be imported: {type(error).__name__}: {error}; write package.module:Name of a module that is"
            f" installed or lies in {Path.cwd()}"
        ) from error
    return target


def _search_current_folder() -> None:
    """A console script does not look where it is started; Ray's workers look there, too. Last, so it hides nothing."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def _by_short_name(use: str) -> Any:
    if use in BUILT_IN:
        return BUILT_IN[use]
    offered = entry_points(group=ENTRY_POINTS)
    matching = [point for point in offered if point.name == use]
    if len(matching) > 1:
        raise ConfigError(
            f"{use} is offered by {len(matching)} packages; write package.module:Name of the one you mean"
        )
    if not matching:
        known = sorted({*BUILT_IN, *(point.name for point in offered)})
        near = difflib.get_close_matches(use, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise ConfigError(f"no validator is called {use!r} ({hint}); for one of your own write package.module:Name")
    try:
        return matching[0].load()
    except Exception as error:
        raise ConfigError(f"{use}: entry point {matching[0].value} fails: {type(error).__name__}: {error}") from error
