"""The files that Prometheus, Grafana and Kubernetes read, each as text, by its path in the repository."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from raypose.monitoring.alerts import rule_groups
from raypose.monitoring.dashboards import all_dashboards

NAMESPACE = "raypose"
RUN_PORT = 9400
"""Where the manifests of k8s/ let a run be scraped (`telemetry.prometheus_port`)."""
RAY_PORT = 8080
SERVE_PORT = 8000
_MADE = "# Written by 'raypose k8s monitoring'; change src/raypose/monitoring instead.\n"
_COMPONENT = "k8s/components/monitoring"


def monitoring_files() -> Mapping[str, str]:
    """All of them."""
    dashboards = {name: json.dumps(one.to_json(), indent=1) + "\n" for name, one in all_dashboards().items()}
    resources = ["pod-monitors.yaml", "rules.yaml", *(f"dashboard-{name}.yaml" for name in dashboards)]
    return {
        "cluster/monitoring/rules.yaml": _MADE + _yaml(rule_groups()),
        **{f"cluster/monitoring/dashboards/{name}.json": text for name, text in dashboards.items()},
        f"{_COMPONENT}/kustomization.yaml": _MADE
        + "# Needs the operators of Prometheus and Grafana's dashboards (kube-prometheus-stack has both).\n"
        + _yaml({"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component", "resources": resources}),
        f"{_COMPONENT}/rules.yaml": _MADE + _yaml(_custom("PrometheusRule", "raypose", rule_groups())),
        f"{_COMPONENT}/pod-monitors.yaml": _MADE + _yaml(_runs_monitor(), _ray_monitor(), _service_monitor()),
        **{
            f"{_COMPONENT}/dashboard-{name}.yaml": _MADE + _yaml(_config_map(name, text))
            for name, text in dashboards.items()
        },
    }


def write_files(root: Path) -> list[str]:
    """Write those that are not there as they should be; returns their paths."""
    written = []
    for name, text in monitoring_files().items():
        path = root / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(name)
    return written


def _runs_monitor() -> dict[str, Any]:
    """The driver of a job runs in the head's pod."""
    return _monitor("raypose-runs", {"app.kubernetes.io/component": "train", "ray.io/node-type": "head"}, RUN_PORT)


def _ray_monitor() -> dict[str, Any]:
    return _monitor("raypose-nodes", {}, RAY_PORT)


def _service_monitor() -> dict[str, Any]:
    """By pods: the proxy of each asks the replica beside it first; through the service, a scrape would meet any."""
    return _monitor(
        "raypose-service", {"app.kubernetes.io/component": "serve", "ray.io/node-type": "worker"}, SERVE_PORT
    )


def _monitor(name: str, labels: Mapping[str, str], port: int) -> dict[str, Any]:
    endpoint = {"portNumber": port, "path": "/metrics", "interval": "15s"}
    selector = {"matchLabels": {"app.kubernetes.io/name": "raypose", **labels}}
    return _custom("PodMonitor", name, {"selector": selector, "podMetricsEndpoints": [endpoint]})


def _custom(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": kind,
        # The label by which kube-prometheus-stack picks out what it reads.
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"release": "kube-prometheus-stack"}},
        "spec": dict(spec),
    }


def _config_map(name: str, text: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"raypose-dashboard-{name}", "namespace": NAMESPACE, "labels": {"grafana_dashboard": "1"}},
        "data": {f"raypose-{name}.json": text},
    }


class _Dumper(yaml.SafeDumper):
    """Long texts as blocks, as a person would write them; nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _yaml(*documents: Mapping[str, Any]) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=1000)
