"""A run asks for more workers than there are; nodes come, it trains, nodes go."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import ray.util
import yaml

from raypose.config import dump_config
from tests.commands import RAYPOSE
from tests.data_sets import tiny_run
from tests.ports import free_ports

CONFIG = Path(__file__).parents[2] / "cluster/autoscale-local.yaml"

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(500)]


@dataclass(frozen=True)
class Head:
    address: str
    dashboard: str
    token: str

    @property
    def environment(self) -> dict[str, str]:
        return {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def nodes(self) -> int:
        request = urllib.request.Request(
            f"{self.dashboard}/api/v0/nodes", headers={"Authorization": f"Bearer {self.token}"}
        )
        with contextlib.suppress(OSError, ValueError, KeyError), urllib.request.urlopen(request, timeout=10) as answer:
            return sum(one["state"] == "ALIVE" for one in json.load(answer)["data"]["result"]["result"])
        return 0


def wait_until(seconds: float, what: str, is_so: object) -> None:
    deadline_s = time.monotonic() + seconds
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < deadline_s, f"after {seconds} s: {what}"
        time.sleep(0.5)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    """The cluster that the file describes, as its first lines say, but for a time that tests can wait for."""
    config = yaml.safe_load(CONFIG.read_text())
    gcs, dashboard, client = free_ports(3)
    config["provider"]["gcs_address"] = f"{ray.util.get_node_ip_address()}:{gcs}"
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({**config, "idle_timeout_minutes": 0.1}))
    head = Head(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", secrets.token_hex(32))
    environment = {**os.environ, **head.environment, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    del environment["RAY_ADDRESS"]
    with tempfile.TemporaryDirectory(prefix="rp-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={gcs}",
                f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", f"--temp-dir={folder}/ray",
                f"--autoscaling-config={tmp_path / 'cluster.yaml'}", "--num-cpus=1", "--object-store-memory=100000000",
                "--min-worker-port=0", "--max-worker-port=0",
            ],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_until(120, "the head does not answer", lambda: head.nodes() == 1)
            yield head
        finally:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            psutil.wait_procs(family, timeout=30)


def test_nodes_come_for_a_run_and_go_after_it(head: Head, data: Path, tmp_path: Path) -> None:
    run = tiny_run(data, tmp_path / "runs", "scaling.workers=2", "scaling.cpus_per_worker=2", "scaling.device=cpu")
    (tmp_path / "run.yaml").write_text(dump_config(run))
    training = subprocess.Popen(
        [*RAYPOSE, "train", str(tmp_path / "run.yaml")],
        env={**os.environ, **head.environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        wait_until(120, "no nodes came", lambda: head.nodes() == 3 or training.poll() is not None)
        said, _ = training.communicate(timeout=240)
    finally:
        training.kill()
    assert training.returncode == 0, said
    assert "2 x cpu" in said
    assert json.loads((tmp_path / "runs/tiny/summary.json").read_text())["status"] == "completed"
    wait_until(120, "nodes stayed", lambda: head.nodes() == 1)
