"""Callbacks: code of one's own that hears what a run says. docs/monitoring.md is the guide."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

from raypose.config.plugins import load_plugin
from raypose.config.schema import CallbackConfig
from raypose.errors import ConfigError
from raypose.telemetry.events import Reporter

ENTRY_POINTS = "raypose.callbacks"


def find_callbacks(wanted: Sequence[CallbackConfig]) -> list[tuple[str, Reporter]]:
    """Import and construct each, with the name it is known by; ConfigError names every one that cannot be had."""
    found: list[tuple[str, Reporter]] = []
    problems: list[str] = []
    for place, entry in enumerate(wanted):
        try:
            found.append((entry.use, _build(entry)))
        except ConfigError as error:
            problems += [f"telemetry.callbacks[{place}]: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return found


def _build(entry: CallbackConfig) -> Reporter:
    target: Any = load_plugin(entry.use, group=ENTRY_POINTS, noun="callback")
    if not inspect.isclass(target):
        _require_takes(entry, target, None, **entry.args)
        return partial(target, **entry.args)
    _require_takes(entry, target, **entry.args)
    try:
        made: Any = target(**entry.args)
    except Exception as error:
        raise ConfigError(f"{entry.use}: cannot be made with {entry.args}: {error}; mend its args") from error
    _require_takes(entry, made, None)
    callback: Reporter = made
    return callback


def _require_takes(entry: CallbackConfig, target: Any, *places: None, **arguments: object) -> None:
    """Refuse what cannot be called like this, without calling it."""
    try:
        inspect.signature(target).bind(*places, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{entry.use}: is no callback for these args: {error}; it is a function of (event, **args), or a class made"
            " with args whose instances are called with (event)"
        ) from error
