"""A real Prometheus, for tests of what it makes of metrics and rules."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ports import free_port

MONITORING = Path(__file__).parents[1] / "cluster/monitoring"

needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's prometheus is not installed")


class Server:
    """Prometheus' HTTP API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._url}{path}?{query}", timeout=10) as answer:
            return json.load(answer)

    def series(self, expression: str) -> list[dict[str, Any]]:
        """What a query finds; Grafana's variables stand for everything."""
        plain = re.sub(r'=~?"\$\w+"', '=~".+"', expression)
        return list(self.get("/api/v1/query", query=plain)["data"]["result"])

    def names(self) -> set[str]:
        """Every metric that was ever scraped."""
        return set(self.get("/api/v1/label/__name__/values")["data"])

    def rules(self) -> Mapping[str, Mapping[str, Any]]:
        """Every alert by its name: `state`, `lastError` and more."""
        groups = self.get("/api/v1/rules")["data"]["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def wait_for(self, alert: str, state: str, seconds: float) -> None:
        deadline_s = time.monotonic() + seconds
        while (found := self.rules()[alert]["state"]) != state:
            assert time.monotonic() < deadline_s, f"{alert} is {found} after {seconds} s, expected {state}"
            time.sleep(0.2)


@contextlib.contextmanager
def prometheus(folder: Path, targets: Mapping[str, str], rule_files: Sequence[Path]) -> Iterator[Server]:
    """As `cluster/monitoring/prometheus.yml` has it, but for the targets, `host:port` by job, and twice a second."""
    settings = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    settings["rule_files"] = [str(path) for path in rule_files]
    known = {scrape["job_name"] for scrape in settings["scrape_configs"]}
    assert set(targets) <= known
    settings["scrape_configs"] = [
        {"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()
    ]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    port = free_port()
    process = subprocess.Popen(
        [
            "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
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
