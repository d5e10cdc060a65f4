"""A service for as long as a command runs: Ray Serve here or on the cluster of RAY_ADDRESS."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from raypose.config.serve_schema import HttpConfig, ModelsConfig, ServeConfig
from raypose.errors import ConfigError, RayposeError, TrainingError
from raypose.launch.cluster import ray_cluster

_APP = "raypose"
_DRAIN_S = "1"


@dataclass(frozen=True, slots=True)
class Running:
    """A service that answers at `url`. `change` gives it another configuration of its models, in place."""

    url: str
    change: Callable[[ServeConfig], None]


@contextlib.contextmanager
def serving(config: ServeConfig) -> Iterator[Running]:
    """Serve until the end of the block; ConfigError or TrainingError where that cannot begin.

    With RAY_ADDRESS the cluster's own settings decide about its proxies.
    """
    with tempfile.TemporaryDirectory(prefix="raypose-serve-") as folder:
        _prepare_environment(config.http, Path(folder))
        with ray_cluster():
            from ray import serve

            from raypose.serve.app import application

            def show(wanted: ServeConfig) -> None:
                serve.run(application(wanted.located(Path.cwd())), name=_APP, route_prefix="/")

            running = config

            def change(wanted: ServeConfig) -> None:
                nonlocal running
                require_changeable(running, wanted)
                with _one_line():
                    show(wanted)
                running = wanted

            _quiet()
            # Only now: while Ray starts it takes ports of its own, and one that was free might be among them.
            port = free_port(config.http.host, config.http.port)
            try:
                with _one_line():
                    serve.start(http_options={"host": config.http.host, "port": port})
                    show(config)
                yield Running(f"http://{_asked_at(config.http.host)}:{port}", change)
                serve.delete(
                    _APP
                )  # replicas answer what they have accepted; `shutdown` alone would cut the proxies off
            finally:
                serve.shutdown()


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """What Ray Serve raises while it starts or changes an application, as one line."""
    from ray import serve
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise TrainingError(f"Ray Serve did not start: {str(error).strip().partition(chr(10))[0]}") from error
    except RuntimeError as error:
        status = serve.status().applications.get(_APP)
        said = [deployment.message for deployment in status.deployments.values()] if status else []
        raise _reason(" ".join(said) or str(error)) from error


def _reason(text: str) -> RayposeError:
    """The line of the error that made a replica fail, out of Serve's report with all its tracebacks."""
    for line in reversed(text.splitlines()):
        kind, separator, message = line.strip().partition(": ")
        if separator and kind.rpartition(".")[0] == "raypose.errors":
            return (ConfigError if kind.endswith("ConfigError") else TrainingError)(message)
    return TrainingError(f"the service did not start: {text.strip().splitlines()[-1][:500] if text.strip() else '?'}")


def wait_for_end(on_reload: Callable[[], None]) -> None:
    """Return at SIGINT or SIGTERM; call `on_reload` at SIGHUP."""
    happened: list[int] = []
    awake = threading.Event()

    def note(number: int, _: object) -> None:
        happened.append(number)
        awake.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        while True:
            awake.wait()
            awake.clear()
            while happened:
                if happened.pop(0) != signal.SIGHUP:
                    return
                on_reload()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def require_changeable(running: ServeConfig, wanted: ServeConfig) -> None:
    """ConfigError for what cannot change while a service runs.

    All but models takes other replicas, and Ray Serve ends one before it starts another: a service of one would be away
    meanwhile, and for good where the new one does not start.
    """
    sections = (name for name in ServeConfig.model_fields if name not in ModelsConfig.model_fields)
    changed = [name for name in sections if getattr(running, name) != getattr(wanted, name)]
    if "http" in changed:
        raise ConfigError("http: cannot change while the service runs; end it and start it again")
    if changed and running.replicas.count < 2:
        raise ConfigError(
            f"{', '.join(changed)}: cannot change while the service runs with one replica, which would have to end"
            " before another takes its place; end the service and start it again, or run it with replicas.count 2"
        )


def free_port(host: str, port: int = 0) -> int:
    """The port, or one that is free for 0; ConfigError where nobody can listen there at this moment."""
    with socket.socket() as probe:
        if port:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            key, remedy = ("port", "another port, or 0 for a free one") if port else ("host", "one of this machine's")
            raise ConfigError(
                f"http.{key}: cannot listen on {host}:{port}: {error.strerror}; choose {remedy}"
            ) from error
        found: int = probe.getsockname()[1]
        return found


def _asked_at(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "") else host


def _prepare_environment(http: HttpConfig, folder: Path) -> None:
    """Ray Serve reads these once, when it is imported, here and in its own processes."""
    settings = {
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": _DRAIN_S,
        # A machine that is busy takes longer than Ray's 5 s to start a proxy, and is not broken for that.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
    }
    if http.proxy == "haproxy":
        settings |= {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            # Several services on one machine would share these otherwise.
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port("127.0.0.1")),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port("127.0.0.1")),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port("127.0.0.1")),
        }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def _quiet() -> None:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
