"""One real service for all tests of this folder: `raypose serve` in a process of its own, behind HAProxy."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

from raypose.serve.client import Client
from tests.commands import RAYPOSE
from tests.data_sets import build_synthetic
from tests.processes import processes_below
from tests.served_run import add_checkpoint

_SETTINGS = """
model: {model}
follow_s: {follow_s}
compute: {{backend: torch, precision: float32}}
limits: {{image_pixels: 50000000, queue_images: 32}}
replicas: {{cpus: 1}}
drift: {{data: {data}, images: 8, window: 4}}
"""


@dataclass
class Served:
    """A service that runs, and what a test may do to it."""

    url: str
    run: Path
    data: Path
    config: Path
    log: Path
    process: subprocess.Popen[bytes]

    def configure(self, model: Path, *, follow_s: str = "null") -> None:
        """Write the configuration and have it read again."""
        self.config.write_text(_SETTINGS.format(model=model, data=self.data, follow_s=follow_s))
        self.process.send_signal(signal.SIGHUP)

    def versions(self) -> list[str]:
        with Client(self.url) as client:
            return [model["version"] for model in client.models()["models"]]

    def wait_for(self, version_start: str) -> None:
        deadline_s = time.monotonic() + 120
        while not self.versions()[0].startswith(version_start):
            assert time.monotonic() < deadline_s, self.versions()
            time.sleep(0.1)

    def wait_for_refusal(self, reason: str) -> None:
        deadline_s = time.monotonic() + 120
        with Client(self.url) as client:
            while not any(reason in entry["reason"] for entry in client.models()["refused"]):
                assert time.monotonic() < deadline_s, reason
                time.sleep(0.1)

    def replicas(self) -> list[int]:
        """Process ids of the replicas of this service."""
        return [process.pid for process in processes_below(self.process.pid, "ServeReplica:raypose:pose")]

    def pending(self) -> float:
        """Images that were accepted and are not answered yet."""
        with urlopen(f"{self.url}/metrics") as answer:
            found = re.findall(r"^raypose_serve_queue_images\{.*\} (\S+)$", answer.read().decode(), re.MULTILINE)
        return sum(map(float, found))  # there is none before the first request


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    run = folder / "run"
    add_checkpoint(run, 1, seed=0, pose_ap=0.1)
    config, log = folder / "serve.yaml", folder / "log.txt"
    data = build_synthetic(folder / "data") / "val"
    config.write_text(_SETTINGS.format(model=run, data=data, follow_s="null"))
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    command = [*RAYPOSE, "serve", f"--config={config}", "--port=0"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process:
        try:
            yield Served(_url(process, log), run, data, config, log, process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline_s = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline_s:
        found = re.search(r"serving at (\S+)", log.read_text(errors="replace"))
        if found:
            return found[1]
        time.sleep(0.2)
    pytest.fail(f"the service did not start:\n{log.read_text(errors='replace')[-2000:]}")
