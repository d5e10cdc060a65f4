"""Dashboards and alerts: what they ask for exists, and what is committed is what is built."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypose.monitoring.alerts import GROUPS, RUNBOOK
from raypose.monitoring.dashboards import all_dashboards
from raypose.monitoring.files import monitoring_files
from raypose.serve.metrics import ServeMetrics
from raypose.telemetry.metric_table import METRICS

ROOT = Path(__file__).parents[2]
RAY_METRICS = {
    "ray_node_cpu_utilization",
    "ray_node_mem_used",
    "ray_node_mem_total",
    "ray_node_disk_usage",
    "ray_node_disk_free",
}
NAME = re.compile(r"\b(?:raypose|ray)_[a-z_]+\b")


def exposed_names() -> set[str]:
    """Every name that a scrape of a run or a replica can hold."""
    names = set(RAY_METRICS)
    for metric in METRICS:
        parts = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        names |= {metric.name + part for part in parts}
    for family in ServeMetrics("a").registry.collect():
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + ending for ending in endings}
    return names


def expressions() -> Iterator[tuple[str, str]]:
    for name, dashboard in all_dashboards().items():
        for panel in dashboard.panels():
            for query in panel.queries:
                yield f"dashboard {name}, {panel.title}", query.expression
    for alerts in GROUPS.values():
        for alert in alerts:
            yield f"alert {alert.name}", alert.expression


def test_every_metric_that_is_asked_for_is_exposed() -> None:
    known = exposed_names()
    unknown = {where: missing for where, text in expressions() if (missing := set(NAME.findall(text)) - known)}
    assert unknown == {}


def test_every_metric_of_a_run_is_on_its_dashboard() -> None:
    shown = " ".join(query.expression for panel in all_dashboards()["run"].panels() for query in panel.queries)
    shown += " " + " ".join(variable.metric for variable in all_dashboards()["run"].variables)
    elsewhere = {"raypose_run_finished"}  # the fleet's, and the alerts'
    assert {metric.name for metric in METRICS if metric.name not in shown} == elsewhere


def test_losses_may_fall_below_zero_and_shares_are_drawn_apart_from_counts_and_pixels() -> None:
    panels = {panel["title"]: panel for panel in all_dashboards()["run"].to_json()["panels"]}
    assert "min" not in panels["losses"]["fieldConfig"]["defaults"]  # yolo26's likelihood loss
    shown = {title: _shown_by(panels[title]) for title in ("validation", "keypoint error", "own validators")}
    assert shown == {
        "validation": {"pose_ap", "pck_box_10", "keypoint_error_box", "best_f1_conf"},
        "keypoint error": {"keypoint_error_px"},
        "own validators": {"guard.pck"},
    }


def _shown_by(panel: dict[str, Any]) -> set[str]:
    """Which of some validation metrics the matcher of a panel lets through; Prometheus matches from end to end."""
    metrics = {"pose_ap", "pck_box_10", "keypoint_error_box", "best_f1_conf"}
    metrics |= {"keypoint_error_px", "images", "people", "guard.pck"}
    ((matcher, pattern),) = re.findall(r'metric(!~|=~)"([^"]*)"', panel["targets"][0]["expr"])
    return {metric for metric in metrics if bool(re.fullmatch(pattern, metric)) == (matcher == "=~")}


def test_what_is_committed_is_what_is_built() -> None:
    different = [name for name, text in monitoring_files().items() if (ROOT / name).read_text() != text]
    assert different == [], "run: raypose k8s monitoring ."


def test_every_alert_has_a_section_in_the_runbook() -> None:
    headings = {line.strip("# ").strip() for line in (ROOT / RUNBOOK).read_text().splitlines() if line.startswith("#")}
    assert {alert.name for alerts in GROUPS.values() for alert in alerts} <= headings


@pytest.mark.parametrize("name", all_dashboards())
def test_panels_do_not_overlap_and_fit_the_page(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in all_dashboards()[name].to_json()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + across, place["y"] + down) for across in range(place["w"]) for down in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
