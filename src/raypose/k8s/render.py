"""Manifests as they would be applied: `kubectl kustomize`, with a name of their own for each submission."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from raypose.errors import ConfigError
from raypose.k8s.manifest import Manifest, read_manifests

_MAX_NAME = 47
_TIMEOUT_S = 120
_JOBS = ("RayJob",)


def build(folder: str) -> list[Manifest]:
    """The objects of a kustomization. Raises ConfigError where it does not build."""
    for command in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(command[0]):
            break
    else:
        raise ConfigError(
            f"{folder}: neither kubectl nor kustomize is installed; https://kubernetes.io/docs/tasks/tools/"
        )
    if not (Path(folder) / "kustomization.yaml").is_file():
        raise ConfigError(f"{folder}: no kustomization.yaml; name a folder such as k8s/overlays/gpu")
    done = subprocess.run([*command, folder], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(f"{folder}: does not build: {reason}")
    return read_manifests(done.stdout, folder)


def read(source: str) -> list[Manifest]:
    """The objects of a kustomization's folder, or of a YAML file."""
    path = Path(source)
    if path.is_dir():
        return build(source)
    try:
        return read_manifests(path.read_text(encoding="utf-8"), source)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: cannot read it: {error}") from error


def unique_name(name: str, now: datetime) -> str:
    """`name` with the time behind it, within the operator's limit.

    >>> unique_name("raypose-train", datetime(2026, 11, 24, 21, 5, 9))
    'raypose-train-1124-210509'
    """
    suffix = now.strftime("-%m%d-%H%M%S")
    room = _MAX_NAME - len(suffix)
    if len(name) > room:
        digest = hashlib.sha256(name.encode()).hexdigest()[:6]
        name = f"{name[: room - 7].rstrip('-')}-{digest}"
    return name + suffix


def with_unique_jobs(manifests: Sequence[Manifest], now: datetime) -> list[Manifest]:
    """The same objects, each job under a name that it did not have before: a RayJob runs once, whatever is applied."""
    return [
        Manifest(_renamed(one.content, unique_name(one.name, now))) if one.kind in _JOBS else one for one in manifests
    ]


def to_yaml(manifests: Sequence[Manifest]) -> str:
    """A stream for `kubectl apply -f -`."""
    return yaml.safe_dump_all([dict(one.content) for one in manifests], sort_keys=False)


def _renamed(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {**content, "metadata": {**content["metadata"], "name": name}}
