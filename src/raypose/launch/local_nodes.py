"""Several Ray nodes on one machine, each a process of its own: a cluster to try things on before they cost money."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from raypose.errors import ConfigError, TrainingError
from raypose.launch.cluster import KEPT_MEMORY

STATE_FILE = "cluster.json"
_START_S = 120.0
_STOP_S = 5.0
_ATTEMPTS = 3
_OBJECT_STORE_BYTES = 200 * 2**20
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class NodeProcess:
    """A process that is a node, and when it was started: process numbers come again."""

    pid: int
    started_s: float

    def find(self) -> psutil.Process | None:
        """The process, if it is still the same one."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if process.create_time() == self.started_s and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """What `up` has started, as it stands in the folder of the cluster. The head is the first of the nodes."""

    address: str
    dashboard: str
    token: str
    nodes: tuple[NodeProcess, ...]

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to reach it."""
        return {
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.dashboard,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
        }


def up(folder: Path, *, nodes: int, cpus: float) -> LocalCluster:
    """Start so many nodes of `cpus` logical CPUs each, below `folder`, and wait until all are there."""
    if os.path.exists(folder / STATE_FILE):  # noqa: PTH110 - Path.exists raises in a folder of somebody else
        raise ConfigError(
            f"{folder}: a cluster was started there; end it with: raypose cluster down --folder"
            f" {shlex.quote(str(folder))}"
        )
    if len(str(folder.absolute())) > 40:
        raise ConfigError(f"{folder}: too long a path for Ray's sockets; choose one of up to 40 characters")
    _make(folder)
    gcs, dashboard, client = _free_ports(3)
    address, token = f"{_HOST}:{gcs}", secrets.token_hex(32)
    head = [
        "--head", f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
    ]  # fmt: skip
    cluster = LocalCluster(address, f"http://{_HOST}:{dashboard}", token, ())
    _remember(folder, cluster)
    try:
        for number in range(nodes):  # one by one: together they would take longer than Ray waits for each
            place = head if number == 0 else [f"--address={address}"]
            for attempt in range(_ATTEMPTS):
                cluster = _started(folder, cluster, number, place, cpus)
                if _joins(cluster, folder, is_last_attempt=attempt == _ATTEMPTS - 1):
                    break
    except BaseException:
        _end_all(folder, load(folder))  # as far as it got; what they have written stays, to be looked at
        raise
    return cluster


def down(folder: Path) -> int:
    """End all processes of the cluster by their numbers, remove its files, and say how many nodes there were."""
    cluster = load(folder)
    _end_all(folder, cluster)
    for number in range(len(cluster.nodes)):
        shutil.rmtree(_temporary(folder, number), ignore_errors=True)
    for log in folder.glob("*.log"):
        log.unlink()
    return len(cluster.nodes)


def load(folder: Path) -> LocalCluster:
    """The cluster that was started in a folder. Raises ConfigError where there is none."""
    try:
        values = json.loads((folder / STATE_FILE).read_text())
    except FileNotFoundError:
        raise ConfigError(f"{folder}: no cluster was started there; start one with: raypose cluster up") from None
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror}; name your own with --folder") from error
    return LocalCluster(**{**values, "nodes": tuple(NodeProcess(**node) for node in values["nodes"])})


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = folder.stat().st_uid
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}; choose another with --folder") from error
    if owner != os.getuid():  # who could read the token, and put files of theirs in its place
        raise ConfigError(f"{folder}: belongs to another user; choose another with --folder")


def _remember(folder: Path, cluster: LocalCluster) -> None:
    path = folder / STATE_FILE
    path.touch(mode=0o600)  # it holds the token
    path.write_text(json.dumps(asdict(cluster), indent=2) + "\n")


def _started(folder: Path, cluster: LocalCluster, number: int, place: Sequence[str], cpus: float) -> LocalCluster:
    """The cluster with this node, which has yet to join, in place of one of the same number."""
    # In one folder, a node would remove the code of jobs that it no longer needs from under the others.
    place = [*place, f"--temp-dir={_temporary(folder, number)}"]
    node = _start(folder, _name(number), place, cluster.token, cpus)
    cluster = replace(cluster, nodes=(*cluster.nodes[:number], node))
    _remember(folder, cluster)
    return cluster


def _temporary(folder: Path, number: int) -> Path:
    return folder.absolute() / ("ray" if number == 0 else f"r{number}")  # short: Ray's sockets lie below it


def _name(number: int) -> str:
    return "head" if number == 0 else f"node-{number}"


def _start(folder: Path, name: str, place: Sequence[str], token: str, cpus: float) -> NodeProcess:
    agent, runtime = _free_ports(2)
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
        f"--node-ip-address={_HOST}", f"--num-cpus={cpus:g}", f"--object-store-memory={_OBJECT_STORE_BYTES}",
        f"--dashboard-agent-listen-port={agent}", f"--runtime-env-agent-port={runtime}",
        # Nodes of one machine share its ports: the kernel chooses, not the fixed range that each would count through.
        "--min-worker-port=0", "--max-worker-port=0", *place,
    ]  # fmt: skip
    environment = {
        **KEPT_MEMORY, **os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_worker_niceness": "0",
        # Nodes start a worker for each of their CPUs before anybody asks; here they share a few real ones.
        "RAY_prestart_worker_first_driver": "0",
        # Jobs call `raypose`, which is beside this interpreter and need not be on anybody's path.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }  # fmt: skip
    environment.pop("RAY_ADDRESS", None)
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, cwd=folder,
            start_new_session=True,  # Ctrl-C in the terminal that started it is not for the cluster
        )  # fmt: skip
    return NodeProcess(process.pid, psutil.Process(process.pid).create_time())


def _joins(cluster: LocalCluster, folder: Path, *, is_last_attempt: bool) -> bool:
    """Wait for the last node; False where it has given up, as Ray does after 30 s, which a busy machine may exceed."""
    number = len(cluster.nodes) - 1
    deadline_s = time.monotonic() + _START_S
    while _alive(cluster) <= number:
        if cluster.nodes[number].find() is None:
            if is_last_attempt:
                said = _last_line(folder / f"{_name(number)}.log")
                raise TrainingError(f"{folder}: node {number} did not start, tried {_ATTEMPTS} times: {said}")
            return False
        if time.monotonic() > deadline_s:
            raise TrainingError(f"{folder}: {number} of {number + 1} nodes answer after {_START_S:.0f} s")
        time.sleep(0.5)
    return True


def _alive(cluster: LocalCluster) -> int:
    """Nodes that the head counts as alive, by its dashboard; 0 while that does not answer."""
    request = urllib.request.Request(
        f"{cluster.dashboard}/api/v0/nodes", headers={"Authorization": f"Bearer {cluster.token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            nodes = json.load(answer)["data"]["result"]["result"]
    except (OSError, ValueError, KeyError):
        return 0
    return sum(one["state"] == "ALIVE" for one in nodes)


def _end_all(folder: Path, cluster: LocalCluster) -> None:
    for node in reversed(cluster.nodes):
        _end(node)
    (folder / STATE_FILE).unlink()


def _end(node: NodeProcess) -> None:
    process = node.find()
    if process is None:
        return
    family = [process]
    with contextlib.suppress(psutil.NoSuchProcess):
        family += process.children(recursive=True)
        process.terminate()  # `ray start --block` then ends what it has started
    _, left = psutil.wait_procs(family, timeout=_STOP_S)
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(left, timeout=_STOP_S)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((_HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]
