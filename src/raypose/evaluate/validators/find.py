"""From what the configuration says of validators to validators, or to every problem at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from raypose.config import ValidatorConfig
from raypose.config.plugins import load_plugin
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
    target = load_plugin(entry.use, group=ENTRY_POINTS, noun="validator", built_in=BUILT_IN)
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
