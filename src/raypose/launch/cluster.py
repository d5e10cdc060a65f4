"""A connection to Ray: the cluster that RAY_ADDRESS names, or one on this machine for as long as it is needed."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping

from raypose.errors import ConfigError, TrainingError

KEPT_MEMORY = {
    "MALLOC_ARENA_MAX": "1",  # one heap for all threads, because those of their own are of 64 MB
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""Has glibc keep what is freed, in processes that begin with it. A step on a CPU takes the same blocks as the one
before, and by default large ones go back to the kernel, which clears every page of them anew: a twentieth of the step
and more."""
# Read by Ray when it is imported or started, so they are set before that happens.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # How soon the controller sees a dead worker or a finished one; the default of 2 s costs 4 s at every end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_V2_ENABLED": "1",
    # How long workers may wait for room. After the loss of a node a run of fixed size asks again as often as it takes,
    # and an elastic one goes on with fewer workers the first time that this has passed after Ray has noticed, which
    # takes it 12 to 15 s; by default 60 s.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5",
    # A worker process that does not even answer that it is alive (stopped, or on a host that hangs); by default 600 s.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    # Ray starts workers at nice 15; on a machine that does something else, too, training would get what is left.
    "RAY_worker_niceness": "0",
}
_WATCHES_NODES = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
_CLIENT = "ray://"
_ANSWER_S = 5.0


@contextlib.contextmanager
def ray_cluster(local_cpus: int | None = None) -> Iterator[None]:
    """A connection that ends with the block, unless there was one before.

    A Ray of this machine counts `local_cpus`, as many as there are by default.
    """
    _prepare_environment()
    import ray

    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.WARNING)
    address = cluster_address()
    if address is not None:
        require_answer(address)
    started_here = {} if address is not None else {"num_cpus": local_cpus, "include_dashboard": False}
    try:
        with _inherited({} if address is not None else KEPT_MEMORY):
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.WARNING,
                **started_here,
            )
    except Exception as error:  # Ray raises plain exceptions here
        raise TrainingError(_no_ray(address, error)) from error
    is_alone = address is None and _WATCHES_NODES not in os.environ
    if is_alone:
        # Nobody gives notice of the only node there is, and the process that listens takes seconds to start.
        os.environ[_WATCHES_NODES] = "0"
    try:
        yield
    finally:
        ray.shutdown()
        if is_alone:
            del os.environ[_WATCHES_NODES]


@contextlib.contextmanager
def _inherited(settings: Mapping[str, str]) -> Iterator[None]:
    """Environment of the processes that are started in the block, as far as the user has not set it himself."""
    added = settings.keys() - os.environ.keys()
    os.environ.update({name: settings[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def cluster_address() -> str | None:
    """The cluster that RAY_ADDRESS names; None where it names none, and a Ray of this machine is to be started."""
    address = os.environ.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


def require_answer(address: str) -> None:
    """Raise TrainingError within seconds where Ray would try for minutes, and say nothing meanwhile.

    ConfigError where `address` is none.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(
            f"RAY_ADDRESS: {address}: expected host:port of a head, such as 10.0.0.5:6379, or ray://host:port; set it"
            " so or unset it"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise TrainingError(_no_ray(address, error)) from error
    if address.startswith(_CLIENT):
        return
    if not _is_node():
        raise TrainingError(
            f"RAY_ADDRESS: {address} answers, but this machine is none of the cluster's nodes; have it done there with"
            " 'raypose submit', join it with 'ray start', or set ray://host:10001"
        )
    _require_head(address)


def _require_head(address: str) -> None:
    """Ask once what Ray asks twenty times before it says less."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
    from ray.exceptions import AuthenticationError, RpcError

    try:
        GcsClient(address=address)
    except AuthenticationError as error:
        raise ConfigError(
            f"RAY_ADDRESS: {address}: the cluster refuses the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the"
            " cluster's own"
        ) from error
    except RpcError as error:
        raise TrainingError(_no_ray(address, error)) from error


def _is_node() -> bool:
    """Whether a Ray node runs on this machine, through which a driver would talk to its cluster."""
    from ray._private.services import find_node_ids

    return bool(find_node_ids())


def _no_ray(address: str | None, error: Exception) -> str:
    reason = str(error).partition("\n")[0] or type(error).__name__
    if address:
        return f"RAY_ADDRESS: no Ray cluster answers at {address}: {reason}; start one there, correct or unset it"
    return f"Ray did not start on this machine: {reason}; 'raypose doctor' checks what it needs"


def _prepare_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if cluster_address() is None and os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
        # A secret of this run only. Without one Ray writes one into the home directory, and says so.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
