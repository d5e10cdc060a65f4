"""A real Prometheus scrapes a real service: every question of its dashboard has an answer, and no alert fires."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from raypose.monitoring.alerts import SERVICE_ALERTS
from raypose.monitoring.dashboards import all_dashboards
from raypose.serve.client import Client
from tests.prometheus import MONITORING, Server, needs_prometheus, prometheus
from tests.serve.conftest import Served
from tests.served_run import jpeg

pytestmark = [pytest.mark.ray, needs_prometheus]

NAME = re.compile(r"\braypose_serve_[a-z_]+\b")


def unanswered(server: Server) -> list[str]:
    """Panels of the service's dashboard that would be empty."""
    queries = [(panel.title, query) for panel in all_dashboards()["service"].panels() for query in panel.queries]
    return [f"{title}: {query.expression}" for title, query in queries if not server.series(query.expression)]


def test_every_metric_of_the_dashboard_and_the_alerts_is_scraped(served: Served, tmp_path: Path) -> None:
    target = {"raypose-service": served.url.removeprefix("http://")}
    with prometheus(tmp_path, target, [MONITORING / "rules.yaml"]) as server, Client(served.url) as client:
        deadline_s = time.monotonic() + 30
        while left := unanswered(server):  # a rate needs two scrapes
            assert time.monotonic() < deadline_s, left
            client.predict(jpeg())
            time.sleep(0.2)
        named = {name for alert in SERVICE_ALERTS for name in NAME.findall(alert.expression)}
        assert named <= server.names()
        assert [name for name, rule in server.rules().items() if rule["state"] == "firing"] == []
