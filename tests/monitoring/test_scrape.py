"""A real Prometheus scrapes a real run, of which one worker is stopped for a while."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from raypose.config import dump_config
from raypose.monitoring.alerts import GROUPS
from raypose.monitoring.dashboards import all_dashboards
from raypose.telemetry.metric_table import METRICS
from tests.commands import RAYPOSE
from tests.data_sets import build_synthetic, tiny_run
from tests.ports import free_port
from tests.processes import processes_below
from tests.prometheus import MONITORING, Server, needs_prometheus, prometheus

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400), needs_prometheus]

EPOCHS = 6
STALLED = "RayposeStepStalled"


def impatient_rules(folder: Path) -> Path:
    """The alert of a stalled run in a file of its own, waiting for seconds in place of minutes; else as committed."""
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    rule = next(rule for group in groups for rule in group["rules"] if rule["alert"] == STALLED)
    assert rule["expr"].count("[15m]") == 1
    impatient = {**rule, "alert": f"{STALLED}Soon", "expr": rule["expr"].replace("[15m]", "[3s]"), "for": "1s"}
    path = folder / "impatient.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "impatient", "rules": [impatient]}]}))
    return path


def worker_of(run: subprocess.Popen[bytes]) -> psutil.Process:
    return processes_below(run.pid, "RayTrainWorker")[0]


@contextlib.contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, list[str], float]]:
    """Prometheus, with the committed rules, after a run whose worker stood still until an impatient alert fired;
    the runs that it fired for, and the step where they stood."""
    folder = tmp_path_factory.mktemp("scrape")
    port = free_port()
    settings = [f"telemetry.prometheus_port={port}", f"train.epochs={EPOCHS}", "telemetry.log_every_steps=1"]
    (folder / "run.yaml").write_text(
        dump_config(tiny_run(build_synthetic(folder / "data"), folder / "runs", *settings))
    )
    rules = [MONITORING / "rules.yaml", impatient_rules(folder)]
    command = [*RAYPOSE, "train", str(folder / "run.yaml")]
    with (
        prometheus(folder, {"raypose-runs": f"127.0.0.1:{port}"}, rules) as server,
        (folder / "log.txt").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ)) as run,
    ):
        try:
            deadline_s = time.monotonic() + 120
            while not server.series("raypose_train_step > 1"):
                assert run.poll() is None and time.monotonic() < deadline_s, (folder / "log.txt").read_text()
                time.sleep(0.1)
            server.wait_for(f"{STALLED}Soon", "inactive", 60)  # its first step alone may be slow enough to fire it
            with stopped(worker_of(run)):
                server.wait_for(f"{STALLED}Soon", "firing", 30)
                stalled = server.series(f'raypose_train_step and on (run) ALERTS{{alertname="{STALLED}Soon"}}')
            server.wait_for(f"{STALLED}Soon", "inactive", 60)
            assert run.wait(timeout=120) == 0, (folder / "log.txt").read_text()
        finally:
            run.kill()
        yield server, [series["metric"]["run"] for series in stalled], float(stalled[0]["value"][1])


@pytest.fixture(scope="module")
def scraped(watched: tuple[Server, list[str], float]) -> Server:
    return watched[0]


def test_every_metric_of_the_table_arrives(scraped: Server) -> None:
    for metric in METRICS:
        name = f"{metric.name}_count" if metric.kind == "histogram" else metric.name
        found = scraped.series(f"last_over_time({name}[1h])")
        assert found, f"{name} was never scraped"
        assert {series["metric"]["run"] for series in found} == {"tiny"}
        assert set(metric.labels) <= set(found[0]["metric"])


def test_the_run_is_what_the_metrics_say(scraped: Server) -> None:
    steps = 6 * EPOCHS
    assert float(scraped.series("max_over_time(raypose_train_step[1h])")[0]["value"][1]) == steps
    assert float(scraped.series("max_over_time(raypose_train_steps_planned[1h])")[0]["value"][1]) == steps


def test_prometheus_reads_every_expression_of_dashboards_and_alerts(scraped: Server) -> None:
    for board in all_dashboards().values():
        for panel in board.panels():
            for query in panel.queries:
                scraped.series(query.expression)
    for alerts in GROUPS.values():
        for alert in alerts:
            scraped.series(alert.expression)


def test_no_alert_fires_in_a_good_run_and_all_are_loaded(scraped: Server) -> None:
    rules = scraped.rules()
    assert set(rules) == {alert.name for alerts in GROUPS.values() for alert in alerts} | {f"{STALLED}Soon"}
    assert {name: rule["lastError"] for name, rule in rules.items() if rule.get("lastError")} == {}
    assert [name for name, rule in rules.items() if rule["state"] == "firing"] == []


def test_the_alert_of_a_stalled_run_fired_while_a_worker_was_stopped(
    watched: tuple[Server, list[str], float],
) -> None:
    _, runs, step = watched
    assert runs == ["tiny"]
    assert 1 < step < 6 * EPOCHS  # neither before the first step nor after the last, where a step takes longer, too
