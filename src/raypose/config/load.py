"""From a YAML file and dotted overrides to a `RunConfig`, or to every problem at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from raypose.config.schema import RunConfig
from raypose.errors import ConfigError

KeyPath = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, except that `1e-3` is a number, as YAML 1.2 and everyone who writes it has it."""


_Loader.add_implicit_resolver(  # type: ignore[no-untyped-call]
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


@dataclass
class _Source:
    """Raw values and, for each key path, the words that tell a user where it stands."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read `path` (if any), lay `key.sub=value` overrides over it and check the whole.

    Raises ConfigError with one line for each problem, each with file and line or the override it came from.
    """
    source = _Source() if path is None else _read_file(Path(path))
    for override in overrides:
        _apply_override(source, override)
    config: RunConfig | None = None
    try:
        config = RunConfig.model_validate(source.values)
    except ValidationError as error:
        source.problems += [_describe(detail, source, path) for detail in error.errors()]
    if source.problems or config is None:
        raise ConfigError(source.problems)
    return config


def dump_config(config: RunConfig) -> str:
    """The whole configuration as YAML that `load_config` reads back to an equal value."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_file(path: Path) -> _Source:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot read the configuration: {reason}") from error
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return _Source()
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{path}: expected keys and values, such as 'name: demo'")
        source = _Source()
        _collect_places(root, (), path, source)
        source.values = loader.construct_document(root)  # type: ignore[no-untyped-call]
        return source
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        what = getattr(error, "problem", None) or str(error).replace("\n", " ")
        raise ConfigError(f"{where}: not valid YAML: {what}") from error


def _collect_places(node: yaml.MappingNode, prefix: KeyPath, path: Path, source: _Source) -> None:
    seen: set[str] = set()
    for key_node, value_node in node.value:
        key = str(key_node.value)
        place = f"{path}:{key_node.start_mark.line + 1}"
        if key in seen:
            source.problems.append(f"{place}: {'.'.join((*prefix, key))}: given twice; keep one")
        seen.add(key)
        source.places[(*prefix, key)] = place
        if isinstance(value_node, yaml.MappingNode):
            _collect_places(value_node, (*prefix, key), path, source)


def _apply_override(source: _Source, override: str) -> None:
    dotted, separator, text = override.partition("=")
    keys = tuple(dotted.split("."))
    if not separator or not all(keys):
        source.problems.append(f"override {override!r}: expected key.sub=value, such as train.epochs=2")
        return
    try:
        value = yaml.load(text, Loader=_Loader) if text else None
    except yaml.YAMLError:
        source.problems.append(f"override {override!r}: the value is not valid YAML; quote it")
        return
    target = source.values
    for key in keys[:-1]:
        branch = target.setdefault(key, {})
        if branch is None:
            branch = target[key] = {}
        if not isinstance(branch, dict):
            source.problems.append(f"override {override!r}: {key} is a value, not a section")
            return
        target = branch
    target[keys[-1]] = value
    source.places[keys] = f"override {override!r}"


def _describe(detail: Mapping[str, Any], source: _Source, path: str | Path | None) -> str:
    location = tuple(str(part) for part in detail["loc"])
    dotted = ".".join(_known_prefix(location))
    place = _nearest_place(location, source) or (str(path) if path else "command line")
    kind, message = detail["type"], detail["msg"]
    if kind == "extra_forbidden":
        text = f"{dotted}: unknown key{_suggest(location)}"
    elif kind == "missing":
        text = f"{dotted}: missing; set it in the file or as {dotted}=…"
    elif kind == "value_error":
        text = f"{dotted}: {detail['ctx']['error']}" if dotted else str(detail["ctx"]["error"])
    else:
        text = f"{dotted}: {message[0].lower()}{message[1:]}, found {detail['input']!r}"
    return f"{place}: {text}"


def _known_prefix(location: KeyPath) -> KeyPath:
    """Without the names of union members that pydantic appends to a location."""
    section: Any = RunConfig
    for depth, key in enumerate(location):
        fields = getattr(section, "model_fields", None)
        if fields is None or key not in fields:
            return location[: depth + 1] if fields is not None else location[:depth]
        section = fields[key].annotation
    return location


def _nearest_place(location: KeyPath, source: _Source) -> str | None:
    for length in range(len(location), 0, -1):
        if location[:length] in source.places:
            return source.places[location[:length]]
    return None


def _suggest(location: KeyPath) -> str:
    section: Any = RunConfig
    for key in location[:-1]:
        section = section.model_fields[key].annotation
    if not (isinstance(section, type) and issubclass(section, BaseModel)):
        return ""
    own = list(section.model_fields)
    near = difflib.get_close_matches(location[-1], own, n=1)
    if near:
        return f"; did you mean {'.'.join((*location[:-1], near[0]))}?"
    for name, entry in RunConfig.model_fields.items():
        branch = entry.annotation
        if isinstance(branch, type) and issubclass(branch, BaseModel) and location[-1] in branch.model_fields:
            return f"; did you mean {name}.{location[-1]}?"
    return f"; known here: {', '.join(own)}"
