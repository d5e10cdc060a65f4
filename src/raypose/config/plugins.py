"""Code of one's own that a configuration names: `package.module:Name`, or what an installed package offers."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

from raypose.errors import ConfigError


def load_plugin(use: str, *, group: str, noun: str, built_in: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """What `use` names: a place in a module, a built-in, or an entry point of `group`. Raises ConfigError."""
    return _import(use) if ":" in use else _by_short_name(use, group, noun, built_in)


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


def _by_short_name(use: str, group: str, noun: str, built_in: Mapping[str, Any]) -> Any:
    if use in built_in:
        return built_in[use]
    offered = entry_points(group=group)
    matching = [point for point in offered if point.name == use]
    if len(matching) > 1:
        raise ConfigError(
            f"{use} is offered by {len(matching)} packages; write package.module:Name of the one you mean"
        )
    if not matching:
        known = sorted({*built_in, *(point.name for point in offered)})
        near = difflib.get_close_matches(use, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known) or 'none'}"
        raise ConfigError(f"no {noun} is called {use!r} ({hint}); for one of your own write package.module:Name")
    try:
        return matching[0].load()
    except Exception as error:
        raise ConfigError(f"{use}: entry point {matching[0].value} fails: {type(error).__name__}: {error}") from error
