"""Rules for services: what Serve is asked for, and how a new version takes over."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from raypose.config.load import parse_placed
from raypose.config.serve_schema import ServeConfig
from raypose.errors import ConfigError
from raypose.k8s.manifest import Finding, Group, Manifest, items, mapping
from raypose.k8s.mounted import ConfigMaps

_UPGRADES = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")


def check_service(manifest: Manifest, files: ConfigMaps) -> Iterator[Finding]:
    """Every rule of this file, for a RayService."""
    if manifest.kind != "RayService":
        return
    upgrade = mapping(manifest.spec.get("upgradeStrategy")).get("type")
    if upgrade not in _UPGRADES:
        yield Finding("upgrade", manifest.place, f"upgradeStrategy.type is {upgrade!r}; choose one of {_UPGRADES}")
    if upgrade == "NewClusterWithIncrementalUpgrade" and not mapping(manifest.cluster).get("enableInTreeAutoscaling"):
        yield Finding("upgrade", manifest.place, "an incremental upgrade needs enableInTreeAutoscaling: true")
    if not manifest.spec.get("rayClusterDeletionDelaySeconds"):
        yield Finding("drain", manifest.place, "set rayClusterDeletionDelaySeconds, to answer what was accepted")
    try:
        serve = yaml.safe_load(str(manifest.spec.get("serveConfigV2") or ""))
    except yaml.YAMLError as error:
        yield Finding("serve-config", manifest.place, f"serveConfigV2 is not valid YAML: {error}")
        return
    yield from _check_schema(manifest, serve)
    applications = items(mapping(serve).get("applications"))
    head = next(manifest.groups(), Group("", {}, is_head=True))
    for application in applications:
        yield from _check_application(manifest, application, head, files)


def _check_schema(manifest: Manifest, serve: Any) -> Iterator[Finding]:
    from ray.serve.schema import ServeDeploySchema

    try:
        ServeDeploySchema.model_validate(serve)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        yield Finding("serve-config", manifest.place, f"serveConfigV2: {where}: {first['msg']}")


def _check_application(
    manifest: Manifest, application: Mapping[str, Any], head: Group, files: ConfigMaps
) -> Iterator[Finding]:
    path = str(application.get("import_path", ""))
    module, _, name = path.partition(":")
    try:
        getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        yield Finding("import-path", manifest.place, f"import_path {path!r} does not resolve: {error}")
        return
    if not path.startswith("raypose."):
        return
    arguments = dict(mapping(application.get("args")))
    if set(arguments) != {"config"}:
        try:
            ServeConfig.model_validate(arguments)
        except ValidationError as error:
            for problem in error.errors():
                where = ".".join(str(part) for part in problem["loc"])
                yield Finding("serve-args", manifest.place, f"{where}: {problem['msg']}")
        return
    file = str(arguments["config"])
    text = files.text(head, file)
    if text is None:
        yield Finding("config-file", manifest.place, f"{file} comes from no config map that the head mounts")
        return
    try:
        parse_placed(ServeConfig, text, file)
    except ConfigError as error:
        for line in error.problems:
            yield Finding("serve-args", manifest.place, line)
