"""Kubernetes objects as they come from `kubectl kustomize`, and the Ray clusters in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from raypose.errors import ConfigError

_SUFFIXES = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40,
}  # fmt: skip
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([mkMGT]|[KMGT]i)?")

GPU = "nvidia.com/gpu"


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that an object breaks. `rule` is its name in docs/kubernetes.md."""

    rule: str
    place: str
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: [{self.rule}] {self.problem}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object."""

    content: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.content.get("kind", ""))

    @property
    def name(self) -> str:
        return str(at(self.content, "metadata", "name") or "")

    @property
    def namespace(self) -> str:
        return str(at(self.content, "metadata", "namespace") or "")

    @property
    def annotations(self) -> Mapping[str, Any]:
        return mapping(at(self.content, "metadata", "annotations"))

    @property
    def spec(self) -> Mapping[str, Any]:
        return mapping(self.content.get("spec"))

    @property
    def place(self) -> str:
        return f"{self.kind}/{self.name}" if self.name else self.kind

    @property
    def job(self) -> Mapping[str, Any] | None:
        """The specification of a job, where this is one, or a timetable for one."""
        match self.kind:
            case "RayJob":
                return self.spec
            case "RayCronJob":
                return mapping(self.spec.get("jobTemplate"))
        return None

    @property
    def cluster(self) -> Mapping[str, Any] | None:
        """The specification of the Ray cluster in it."""
        match self.kind:
            case "RayCluster":
                return self.spec
            case "RayService":
                return mapping(self.spec.get("rayClusterConfig"))
        job = self.job
        return None if job is None or "rayClusterSpec" not in job else mapping(job["rayClusterSpec"])

    def groups(self) -> Iterator[Group]:
        """The head, then the groups of workers."""
        cluster = self.cluster
        if cluster is None:
            return
        yield Group(f"{self.place} head", mapping(cluster.get("headGroupSpec")), is_head=True)
        for index, group in enumerate(items(cluster.get("workerGroupSpecs"))):
            yield Group(f"{self.place} workers {group.get('groupName', index)!r}", group, is_head=False)


@dataclass(frozen=True, slots=True)
class Group:
    """Pods of one kind in a Ray cluster."""

    place: str
    spec: Mapping[str, Any]
    is_head: bool

    @property
    def pod(self) -> Mapping[str, Any]:
        return mapping(at(self.spec, "template", "spec"))

    @property
    def ray_container(self) -> Mapping[str, Any]:
        """The first one: the operator starts Ray in it."""
        return next(iter(self.containers), {})

    @property
    def containers(self) -> Sequence[Mapping[str, Any]]:
        return items(self.pod.get("containers"))

    @property
    def all_containers(self) -> Sequence[Mapping[str, Any]]:
        return [*self.containers, *items(self.pod.get("initContainers"))]

    @property
    def start_parameters(self) -> Mapping[str, Any]:
        return mapping(self.spec.get("rayStartParams"))

    def limit(self, resource: str) -> float:
        """Of the Ray container; 0 where there is none."""
        return quantity(at(self.ray_container, "resources", "limits", resource))

    def request(self, resource: str) -> float:
        """Of the Ray container. Kubernetes takes the limit where none is given."""
        value = at(self.ray_container, "resources", "requests", resource)
        return self.limit(resource) if value is None else quantity(value)

    def environment(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Name and entry of each variable of all containers."""
        for container in self.all_containers:
            for entry in items(container.get("env")):
                yield str(entry.get("name", "")), entry


def read_manifests(text: str, source: str) -> list[Manifest]:
    """The objects of a YAML stream. Raises ConfigError where it is none."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    for document in documents:
        if not isinstance(document, dict) or "kind" not in document:
            raise ConfigError(f"{source}: found {str(document)[:60]!r}, expected objects of Kubernetes with a kind")
    return [Manifest(document) for document in documents]


def at(value: Any, *keys: str) -> Any:
    """The value below these keys, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is a mapping, else an empty one: what is no mapping, the schema of the operator refuses."""
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Mapping[str, Any]]:
    """The mappings of a list."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def quantity(value: Any) -> float:
    """A number of Kubernetes such as `500m` or `6Gi`; 0 for none, not a number for what is not one."""
    if value is None:
        return 0.0
    match = _QUANTITY.fullmatch(str(value))
    return float(match[1]) * _SUFFIXES[match[2] or ""] if match else float("nan")
