"""An S3 server on this machine for benchmarks: Ceph's gateway where it is installed, else moto."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from raypose.config.s3_url import S3Location
from raypose.storage import open_store
from tests.ports import free_port
from tests.s3.servers import ACCESS_KEY, SECRET_KEY, ceph_gateway

SERVER_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}
"""What reaches the server, and nothing of the machine's own settings."""


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and endpoint of a server in processes of its own, which end with the block."""
    port = free_port()
    if all(map(shutil.which, ("ceph-mon", "ceph-osd", "radosgw"))):
        with ceph_gateway(folder, port, free_port()) as gateway:
            yield "Ceph RGW", gateway.endpoint
        return
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield "moto", f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def make_bucket(endpoint: str, bucket: str) -> Any:
    """A boto3 client of the server, with which the bucket was made."""
    plain = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
    client = boto3.client("s3", endpoint_url=endpoint, config=plain)
    client.create_bucket(Bucket=bucket)
    return client


def upload_sets(folder: Path, endpoint: str, bucket: str) -> None:
    """Make the bucket and put the shard sets below `folder` into it, each under its own name."""
    make_bucket(endpoint, bucket)
    for path in sorted(folder.rglob("*.*")):
        store = open_store(S3Location(bucket, path.parent.name, endpoint_url=endpoint).url)
        store.upload(path, path.name)
