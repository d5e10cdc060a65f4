"""What an API server would say about the shape of objects: the schemas of Kubernetes and of installed operators."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

CRDS = Path(__file__).parents[3] / "shared" / "kuberay-crds"
KUBERNETES_VERSION = "1.32"


def shape_problems(content: dict[str, Any]) -> list[str]:
    """Unknown fields, wrong types, missing fields, values that are not allowed."""
    if "." in content["apiVersion"].partition("/")[0] and not content["apiVersion"].startswith("rbac."):
        schema = _crd_schema(content["apiVersion"], content["kind"])
        found = jsonschema.Draft202012Validator(schema).iter_errors(content)
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]
    try:
        kubernetes_validate.validate(content, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message[:200]}"]
    return []


@cache
def _crd_schema(api_version: str, kind: str) -> dict[str, Any]:
    group, _, version = api_version.partition("/")
    for path in CRDS.rglob("*.yaml"):
        if path.name.partition("_")[0] != group:
            continue
        definition = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
        if definition["names"]["kind"] != kind:
            continue
        for one in definition["versions"]:
            if one["name"] == version:
                schema = copy.deepcopy(one["schema"]["openAPIV3Schema"])
                # The API server knows these three by itself.
                for key, kinds in (("apiVersion", "string"), ("kind", "string"), ("metadata", "object")):
                    schema["properties"][key] = {"type": kinds}
                return _strict(schema)
    raise AssertionError(f"no definition of {api_version} {kind} below {CRDS}")


def _strict(schema: Any) -> Any:
    """As the API server reads it: unknown fields are refused, and numbers may be written as text where it says so."""
    if isinstance(schema, list):
        return [_strict(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if strict.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
        strict["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    properties = strict.get("properties")
    if isinstance(properties, dict) and strict.get("type") == "object":
        open_ended = strict.get("x-kubernetes-preserve-unknown-fields") or strict.get("x-kubernetes-embedded-resource")
        if not open_ended and "additionalProperties" not in strict:
            strict["additionalProperties"] = False
    if strict.get("nullable") and isinstance(strict.get("type"), str):
        strict["type"] = [strict["type"], "null"]
    return strict
