"""Object stores to test against: moto, which is always there, and a real Ceph gateway where its programs are."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from raypose.config.s3_url import S3Location
from tests.ports import free_port
from tests.s3.faulty_proxy import FaultyProxy, proxy_to
from tests.s3.servers import (
    CEPH_PACKAGES,
    Gateway,
    Moto,
    Server,
    ceph_gateway,
    make_bucket,
    missing_ceph_programs,
    s3_environment,
)

BUCKET = "raypose"


@pytest.fixture(scope="session", autouse=True)
def s3_credentials() -> Iterator[None]:
    with s3_environment():
        yield


@pytest.fixture(scope="session")
def moto_endpoint(s3_credentials: None) -> Iterator[str]:
    """A moto server in a thread of this process."""
    from moto.server import ThreadedMotoServer

    port = free_port()
    # A line for each request would fill the log of every test, and be what tests of logs find.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    make_bucket(f"http://127.0.0.1:{port}", BUCKET)
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture(scope="session")
def rgw(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    if missing := missing_ceph_programs():
        pytest.skip(f"no Ceph here ({', '.join(missing)} not found); apt-get install {CEPH_PACKAGES}")
    with ceph_gateway(tmp_path_factory.mktemp("ceph") / "rgw") as gateway:
        make_bucket(gateway.endpoint, BUCKET)
        yield gateway


@pytest.fixture(scope="session")
def rgw_endpoint(rgw: Gateway) -> str:
    return rgw.endpoint


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, s3_credentials: None) -> Iterator[Server]:
    """One that may be ended and started again: the real one where it can be had. Holds the bucket BUCKET."""
    if not missing_ceph_programs():
        yield request.getfixturevalue("rgw")
        return
    moto = Moto(free_port())
    make_bucket(moto.endpoint, BUCKET)
    yield moto
    moto.kill()


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultyProxy]:
    with proxy_to(server.endpoint) as proxy:
        yield proxy


# Not for the session: tests of other folders want a Ray with another environment.
@pytest.fixture(scope="package")
def cluster(s3_credentials: None) -> Iterator[None]:
    """A Ray whose workers have the environment of the test servers."""
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session", params=["moto", "rgw"])
def s3_endpoint(request: pytest.FixtureRequest) -> str:
    """The endpoint of each server in turn; both hold the bucket BUCKET."""
    return str(request.getfixturevalue(f"{request.param}_endpoint"))


@pytest.fixture
def s3_url(s3_endpoint: str) -> str:
    """A URL of an empty place in a bucket, another one for each test."""
    return S3Location(BUCKET, f"test-{uuid.uuid4().hex[:12]}", endpoint_url=s3_endpoint).url


def below(url: str, key: str, **options: object) -> str:
    """The URL of `key` in the place `url`, with other options where some are given."""
    return replace(S3Location.parse(url).below(key), **options).url
