"""A real Prometheus scrapes a real run: every metric that the run's dashboard and alerts ask for is there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.data_sets import build_synthetic, tiny_run

from raypose.config import dump_config
from raypose.monitoring.alerts import GROUPS, RUN_ALERTS
from raypose.monitoring.dashboards import all_dashboards
from raypose.telemetry.metric_table import METRICS

MONITORING = Path(__file__).parents[2] / "cluster/monitoring"

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's prometheus is not installed"),
]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Server:
    """Prometheus' HTTP API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._url}{path}?{query}", timeout=10) as answer:
            return json.load(answer)

    def series(self, expression: str) -> list[dict[str, Any]]:
        return list(self.get("/api/v1/query", query=expression)["data"]["result"])


@contextlib.contextmanager
def prometheus(config: Path, folder: Path) -> Iterator[Server]:
    port = free_port()
    where = [f"--config.file={config}", f"--storage.tsdb.path={folder}", f"--web.listen-address=127.0.0.1:{port}"]
    process = subprocess.Popen(["prometheus", *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + 60
        server = Server(port)
        while True:
            try:
                server.get("/api/v1/status/buildinfo")
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline_s, "Prometheus did not start"
                time.sleep(0.2)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Prometheus, with the committed rules, after a run of seconds."""
    folder = tmp_path_factory.mktemp("scrape")
    port = free_port()
    run = tiny_run(build_synthetic(folder / "data"), folder / "runs", f"telemetry.prometheus_port={port}")
    (folder / "run.yaml").write_text(dump_config(run))
    settings = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "500ms", "evaluation_interval": "1s"}
    settings["rule_files"] = [str(MONITORING / "rules.yaml")]
    settings["scrape_configs"] = [{"job_name": "raypose-runs", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    with prometheus(folder / "prometheus.yml", folder / "tsdb") as server:
        subprocess.run(
            [sys.executable, "-c", "from raypose.cli import main; main()", "train", str(folder / "run.yaml")],
            check=True, capture_output=True, env=dict(os.environ), timeout=300,
        )  # fmt: skip
        yield server


def test_every_metric_of_the_table_arrives(scraped: Server) -> None:
    not_in_a_good_run = {"raypose_restarts_total"}
    for metric in METRICS:
        if metric.name in not_in_a_good_run:
            continue
        name = f"{metric.name}_count" if metric.kind == "histogram" else metric.name
        found = scraped.series(f"last_over_time({name}[1h])")
        assert found, f"{name} was never scraped"
        assert {series["metric"]["run"] for series in found} == {"tiny"}
        assert set(metric.labels) <= set(found[0]["metric"])


def test_the_run_is_what_the_metrics_say(scraped: Server) -> None:
    steps = scraped.series("max_over_time(raypose_train_step[1h])")
    assert float(steps[0]["value"][1]) == 12
    assert float(scraped.series("max_over_time(raypose_train_steps_planned[1h])")[0]["value"][1]) == 12


def test_prometheus_reads_every_expression_of_dashboards_and_alerts(scraped: Server) -> None:
    expressions = [
        query.expression for board in all_dashboards().values() for panel in board.panels() for query in panel.queries
    ]
    expressions += [alert.expression for alerts in GROUPS.values() for alert in alerts]
    for expression in expressions:
        plain = re.sub(r"\$(run|replica)", ".*", expression)
        assert scraped.get("/api/v1/format_query", query=plain)["status"] == "success"


def test_no_alert_fires_in_a_good_run_and_all_are_loaded(scraped: Server) -> None:
    groups = scraped.get("/api/v1/rules")["data"]["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert {alert.name for alert in RUN_ALERTS} <= set(rules)
    assert {name: rule["lastError"] for name, rule in rules.items() if rule.get("lastError")} == {}
    assert [name for name, rule in rules.items() if rule["state"] == "firing"] == []
