"""Servers that a test may end and start again without losing what they hold, and how they are reached."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from tests.ports import free_ports

CEPH_RGW = Path(__file__).with_name("ceph-rgw")
CEPH_PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool", "curl")
CEPH_PACKAGES = "ceph-mon ceph-osd radosgw ceph-common"

# Keys of the servers that tests start on loopback; they are worth nothing elsewhere.
ACCESS_KEY, SECRET_KEY = "raypose-access", "raypose-secret"
SERVER_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}
"""What a user of such a server would set, and nothing of the machine's own AWS settings."""


@contextmanager
def s3_environment(endpoint: str | None = None) -> Iterator[None]:
    """The environment that a user of such a server would set, and nothing of the machine's own AWS settings."""
    settings = SERVER_ENVIRONMENT | ({} if endpoint is None else {"AWS_ENDPOINT_URL": endpoint})
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in settings.items():
            patch.setenv(name, value)
        yield


class Server(Protocol):
    endpoint: str

    def kill(self) -> None:
        """No answer from now on, and no goodbye to those who wait for one."""

    def revive(self) -> None:
        """Back at the same endpoint; returns when it answers."""


class Gateway:
    """A Ceph gateway: a process that is killed, in front of an OSD that is not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.endpoint = (folder / "endpoint").read_text().strip()

    def kill(self) -> None:
        subprocess.run([CEPH_RGW, "kill", self._folder], check=True)

    def revive(self) -> None:
        subprocess.run([CEPH_RGW, "revive", self._folder], check=True)

    def freeze(self) -> None:
        """Connections are accepted, and nothing is answered."""
        os.kill(self._pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    @property
    def _pid(self) -> int:
        return int((self._folder / "rgw.pid").read_text())


class Moto:
    """What there is without Ceph: a server in this process, whose objects outlive it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.endpoint = f"http://127.0.0.1:{port}"
        self.revive()

    def kill(self) -> None:
        self._server.stop()

    def revive(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()


@contextmanager
def ceph_gateway(folder: Path) -> Iterator[Gateway]:
    """A gateway with monitor and OSD in memory, about 12 s to start."""
    start = [CEPH_RGW, "start", folder, *map(str, free_ports(2))]
    try:
        subprocess.run(start, check=True, timeout=300, stdout=subprocess.PIPE)
        yield Gateway(folder)
    finally:
        subprocess.run([CEPH_RGW, "stop", folder], check=True, timeout=60)


def missing_ceph_programs() -> list[str]:
    """What would have to be installed to start a Ceph gateway."""
    return [program for program in CEPH_PROGRAMS if shutil.which(program) is None]


def client_of(endpoint: str) -> Any:
    """A plain boto3 client, for what a store has no method for."""
    config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
    return boto3.client("s3", endpoint_url=endpoint, config=config)


def make_bucket(endpoint: str, name: str) -> None:
    client_of(endpoint).create_bucket(Bucket=name)
