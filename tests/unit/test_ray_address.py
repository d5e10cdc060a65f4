"""A cluster that cannot be reached is named within seconds, with what to do about it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from raypose.errors import ConfigError, TrainingError
from raypose.launch import cluster
from raypose.launch.cluster import cluster_address, ray_cluster, require_answer
from raypose.submit import job
from raypose.submit.job import Cluster
from tests.ports import free_port


@contextmanager
def silent_server() -> Iterator[str]:
    """Accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_listens_is_named_at_once(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"{scheme}127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    started_s = time.monotonic()
    with (
        pytest.raises(TrainingError, match=rf"RAY_ADDRESS: no Ray cluster .*{address}.*refused.*unset it"),
        ray_cluster(),
    ):
        pass
    assert time.monotonic() - started_s < 10


@pytest.mark.parametrize("address", ["cluster", "cluster:", ":6379", "cluster:port"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="expected host:port"):
        require_answer(address)


def test_what_ray_looks_for_itself_is_left_to_it() -> None:
    require_answer("auto")


@pytest.mark.parametrize("address", ["", "local"])
def test_words_that_name_no_cluster_stand_for_a_ray_of_this_machine(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster_address() is None
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # so that it is put back after the test
        monkeypatch.delenv(name)
    cluster._prepare_environment()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64, "it has a secret of its own"


def test_a_machine_that_is_no_node_of_the_cluster_hears_how_to_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_is_node", lambda: False)
    with silent_server() as address:
        with pytest.raises(TrainingError, match=r"none of the cluster's nodes.*raypose submit.*ray://host:10001"):
            require_answer(address)
        require_answer(f"ray://{address}")  # made for such machines


@pytest.mark.parametrize("address", ["head:8265", "head", "ray://head:10001"])
def test_what_is_no_url_of_a_dashboard_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=f"{address}: expected the URL of a Ray dashboard, such as http://"):
        Cluster(address).submit(["runs", "list"], ())


def test_a_dashboard_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_ANSWER_S", 0.5)
    with silent_server() as address, pytest.raises(TrainingError, match="no Ray dashboard answers: timed out"):
        Cluster(f"http://{address}").submit(["runs", "list"], ())
