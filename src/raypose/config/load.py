"""From a YAML file and dotted overrides to a `RunConfig`, or to every problem at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from raypose.config.s3_url import hide_secrets
from raypose.config.schema import RunConfig
from raypose.errors import ConfigError

KeyPath = tuple[str, ...]
Config = TypeVar("Config", bound=BaseModel)

MAX_DEPTH = 2
"""Levels of keys that are followed to name file and line; one more than the schema has."""


_QUOTE = "; YAML takes digits for a number, and words such as no for true, false or nothing: put it in quotes"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, except that `1e-3` is a number, as YAML 1.2 has it, and that no word is a date."""


class _Dumper(yaml.SafeDumper):
    """Quotes the text that `_Loader` would take for something else."""


for _dialect in (_Loader, _Dumper):
    _dialect.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in _dialect.yaml_implicit_resolvers.items()
    }
    _dialect.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
        list("-+0123456789."),
    )


@dataclass
class _Source:
    """Raw values and, for each key path, the words that tell a user where it stands."""

    schema: type[BaseModel] = RunConfig
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read `path` (if any), lay `key.sub=value` overrides over it and check the whole.

    Raises ConfigError with one line for each problem, each with file and line or the override it came from.
    """
    return load_as(RunConfig, path, overrides)


def load_as(schema: type[Config], path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """`load_config` for another schema."""
    if path is None:
        return _checked(schema, _Source(schema), overrides, "command line")
    return _checked(schema, _parse(_read_file(Path(path)), str(path), schema), overrides, str(path))


def load_placed(schema: type[Config], path: str | Path) -> tuple[Config, dict[KeyPath, str]]:
    """`load_as`, and where each key of the file stands, as file and line."""
    return parse_placed(schema, _read_file(Path(path)), str(path))


def parse_placed(schema: type[Config], text: str, name: str) -> tuple[Config, dict[KeyPath, str]]:
    """`load_placed` for a text that lies anywhere; `name` stands in front of its line numbers."""
    source = _parse(text, name, schema)
    return _checked(schema, source, (), name), source.places


def check_as(schema: type[Config], values: Mapping[str, Any], otherwise: str) -> Config:
    """`load_as` for values that come from no file; errors name `otherwise` as the place of all keys."""
    return _checked(schema, _Source(schema, dict(values)), (), otherwise)


def check_values(values: Mapping[str, Any], places: Mapping[KeyPath, str], otherwise: str) -> RunConfig:
    """A run from values that lie in no file of their own; `places` says what errors name as the place of a key."""
    return _checked(RunConfig, _Source(RunConfig, dict(values), dict(places)), (), otherwise)


def parse_config(text: str, name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """`load_config` for a text that lies anywhere; `name` stands in front of its line numbers."""
    return _checked(RunConfig, _parse(text, name, RunConfig), overrides, name)


def _checked(schema: type[Config], source: _Source, overrides: Sequence[str], otherwise: str) -> Config:
    for override in overrides:
        _apply_override(source, override)
    config: Config | None = None
    try:
        config = schema.model_validate(source.values)
    except ValidationError as error:
        source.problems += _describe(error.errors(), source, otherwise)
    if source.problems or config is None:
        raise ConfigError(source.problems)
    return config


def dotted(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """What stands in sections, and in sections of them, by its dotted key, as overrides name it."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= dotted(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return flat


def dump_config(config: RunConfig) -> str:
    """The whole configuration as YAML that `load_config` reads back to an equal value."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False)


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot read the configuration: {reason}") from error


def _parse(text: str, name: str, schema: type[BaseModel]) -> _Source:
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return _Source(schema)
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{name}: expected keys and values, such as 'name: demo'")
        source = _Source(schema)
        _collect_places(root, (), name, source)
        source.values = loader.construct_document(root)
        return source
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: what `!!int x` comes to
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        what = getattr(error, "problem", None) or str(error).replace("\n", " ")
        raise ConfigError(f"{where}: not valid YAML: {what}") from error


def _collect_places(node: yaml.MappingNode, prefix: KeyPath, name: str, source: _Source) -> None:
    seen: set[str] = set()
    for key_node, value_node in node.value:
        key = str(key_node.value)
        place = f"{name}:{key_node.start_mark.line + 1}"
        if key in seen:
            source.problems.append(f"{place}: {'.'.join((*prefix, key))}: given twice; keep one")
        seen.add(key)
        source.places[(*prefix, key)] = place
        # No setting lies deeper, and a file whose aliases form a ring would have no end.
        if isinstance(value_node, yaml.MappingNode) and len(prefix) < MAX_DEPTH:
            _collect_places(value_node, (*prefix, key), name, source)


def _apply_override(source: _Source, override: str) -> None:
    place = f"override {hide_secrets(override)!r}"
    key_path, separator, text = override.partition("=")
    keys = tuple(key_path.split("."))
    if not separator or not all(keys):
        source.problems.append(f"{place}: expected key.sub=value, such as train.epochs=2")
        return
    try:
        value = yaml.load(text, Loader=_Loader) if text else None
    except (yaml.YAMLError, ValueError, RecursionError):
        source.problems.append(f"{place}: the value is not valid YAML; quote it")
        return
    target = source.values
    for key in keys[:-1]:
        branch = target.setdefault(key, {})
        if branch is None:
            branch = target[key] = {}
        if not isinstance(branch, dict):
            source.problems.append(f"{place}: {key} is a value, not a section")
            return
        target = branch
    target[keys[-1]] = value
    source.places = {key: place for key, place in source.places.items() if key[: len(keys)] != keys}
    source.places[keys] = place


def _describe(details: Sequence[Mapping[str, Any]], source: _Source, otherwise: str) -> list[str]:
    """One line for each key that is wrong; where several types were possible, one line names them all."""
    by_key: dict[KeyPath, list[Mapping[str, Any]]] = {}
    for detail in details:
        by_key.setdefault(_key_of(detail, source.schema), []).append(detail)
    return [
        f"{_nearest_place(key, source) or otherwise}: {'.'.join(key)}{': ' if key else ''}"
        f"{_explain(key, found, source.schema)}"
        for key, found in by_key.items()
    ]


def _explain(key: KeyPath, details: Sequence[Mapping[str, Any]], schema: type[BaseModel]) -> str:
    # Of a union's members, the one that got deepest into the value is the one that was meant.
    depth = max(len(detail["loc"]) for detail in details)
    deepest = [detail for detail in details if len(detail["loc"]) == depth]
    kind, value = deepest[0]["type"], deepest[0]["input"]
    in_list = deepest[0]["loc"][len(key) :]  # such as (0, "use"), of an entry of a list
    match kind:
        case "missing" | "extra_forbidden" if in_list:
            return f"entry {in_list[0]} {'lacks' if kind == 'missing' else 'has the unknown key'} {in_list[-1]!r}"
        case "extra_forbidden":
            return f"unknown key{_suggest(key, schema)}"
        case "missing":
            return f"missing; set {' and '.join(_required(key, schema))}"
        case "value_error":
            return str(deepest[0]["ctx"]["error"])
        case "model_type":
            return f"must be a section with keys of its own, found {value!r}"
    rules = [re.sub(r"^\w+ should ", "", detail["msg"]) for detail in deepest]
    rule = " or ".join(rules).replace(" or be ", " or ").replace("a valid tuple", "a list")
    is_unquoted = kind == "string_type" and (_is_map_key(deepest[0]) or isinstance(value, bool | int | float))
    return f"must {rule}, found {value!r}{_QUOTE if is_unquoted else ''}"


def _key_of(detail: Mapping[str, Any], schema: type[BaseModel]) -> KeyPath:
    """The configuration key, without the names of union members and the indices that pydantic appends."""
    location = tuple(str(part) for part in detail["loc"])
    if _is_map_key(detail):
        location = (*location[:-2], str(detail["input"]))  # pydantic calls a key False 0
    section: Any = schema
    for depth, key in enumerate(location):
        if get_origin(section) is dict:
            return location[: depth + 1]
        if not _is_section(section):
            return location[:depth]
        if key not in section.model_fields:
            return location[: depth + 1]
        section = _kind_of(section.model_fields[key])
    return location


def _is_map_key(detail: Mapping[str, Any]) -> bool:
    """Whether not a value is wrong, but the key of a mapping, such as the name of a class."""
    return bool(detail["loc"]) and detail["loc"][-1] == "[key]"


def _required(key: KeyPath, schema: type[BaseModel]) -> list[str]:
    """What has to be set where `key` is missing: the key itself, or a section's keys without a default."""
    section: Any = schema
    for name in key:
        section = _kind_of(section.model_fields[name])
    if not _is_section(section):
        return [".".join(key)]
    return [".".join((*key, name)) for name, entry in section.model_fields.items() if entry.is_required()]


def _kind_of(entry: FieldInfo) -> Any:
    """The type of what stands there: of `Section | None` the section, whose keys are named like all others."""
    members = [member for member in get_args(entry.annotation) if member is not NoneType]
    is_optional_section = get_origin(entry.annotation) is UnionType and len(members) == 1 and _is_section(members[0])
    return members[0] if is_optional_section else entry.annotation


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _nearest_place(location: KeyPath, source: _Source) -> str | None:
    for length in range(len(location), 0, -1):
        if location[:length] in source.places:
            return source.places[location[:length]]
    return None


def _suggest(location: KeyPath, schema: type[BaseModel]) -> str:
    section: Any = schema
    for key in location[:-1]:
        section = _kind_of(section.model_fields[key])
    own = list(section.model_fields)
    near = difflib.get_close_matches(location[-1], own, n=1)
    if near:
        return f"; did you mean {'.'.join((*location[:-1], near[0]))}?"
    for name, entry in schema.model_fields.items():
        branch: Any = _kind_of(entry)
        if _is_section(branch) and location[-1] in branch.model_fields:
            return f"; did you mean {name}.{location[-1]}?"
    return f"; known here: {', '.join(own)}"
