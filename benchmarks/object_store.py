"""An S3 server on this machine for benchmarks: Ceph's gateway where it is installed, else moto."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from raypose.config.s3_url import S3Location
from raypose.storage import open_store
from tests.ports import free_port
from tests.s3.servers import ceph_gateway, make_bucket, missing_ceph_programs


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and endpoint of a server in processes of its own, which end with the block."""
    if not missing_ceph_programs():
        with ceph_gateway(folder) as gateway:
            yield "Ceph RGW", gateway.endpoint
        return
    port = free_port()
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


def upload_sets(folder: Path, endpoint: str, bucket: str) -> None:
    """Make the bucket and put the shard sets below `folder` into it, each under its own name."""
    make_bucket(endpoint, bucket)
    for path in sorted(folder.rglob("*.*")):
        store = open_store(S3Location(bucket, path.parent.name, endpoint_url=endpoint).url)
        store.upload(path, path.name)
