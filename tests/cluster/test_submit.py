"""`raypose submit` against a cluster of its own, with a token, as `raypose cluster up` starts it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypose.config import dump_config
from raypose.launch import local_nodes
from raypose.launch.local_nodes import LocalCluster
from tests.commands import MAIN
from tests.data_sets import tiny_run

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[LocalCluster]:
    folder = Path(tempfile.mkdtemp(prefix="rp-"))  # short: Ray's sockets lie below it
    yield local_nodes.up(folder, nodes=1, cpus=4)
    ended = [node for node in local_nodes.load(folder).nodes if node.find()]
    local_nodes.down(folder)
    assert len(ended) == 1
    assert not any(node.find() for node in ended)
    shutil.rmtree(folder)


HEAR_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
"""As at a terminal: what a shell starts in the background, such as a test session, has it ignored."""


def start(nodes: LocalCluster, folder: Path, *words: str, token: str | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, **nodes.environment, "RAY_AUTH_TOKEN": token or nodes.token}
    return subprocess.Popen(
        [sys.executable, "-c", f"{HEAR_CTRL_C}; {MAIN}", "submit", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder,
    )  # fmt: skip


def submit(nodes: LocalCluster, folder: Path, *words: str, token: str | None = None) -> tuple[int, str, str]:
    process = start(nodes, folder, *words, token=token)
    out, error = process.communicate(timeout=300)
    return process.returncode, out, error


def test_the_exit_code_of_the_command_arrives(nodes: LocalCluster, data: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(dump_config(tiny_run(data, tmp_path / "runs")))
    (tmp_path / "runs/tiny").mkdir(parents=True)
    (tmp_path / "runs/tiny/config.yaml").write_text("a run of that name\n")
    # Side by side: most of a job's seconds are spent on waiting for its processes to start.
    done = start(nodes, tmp_path, "runs", "list", str(tmp_path / "nothing"))
    taken = start(nodes, tmp_path, "train", "run.yaml")
    no_data = start(nodes, tmp_path, "data", "stats", str(tmp_path / "nowhere"))
    outputs = {process: process.communicate(timeout=300) for process in (done, taken, no_data)}
    assert (done.returncode, taken.returncode, no_data.returncode) == (0, 2, 3), outputs
    assert "no runs" in outputs[done][0]
    assert "there is a run of this name already" in outputs[taken][0]
    assert outputs[taken][1].strip().splitlines()[-1].endswith("failed with exit code 2")


@pytest.mark.slow
def test_ctrl_c_stops_the_job_with_a_checkpoint_and_its_log_can_be_followed_again(
    nodes: LocalCluster, data: Path, tmp_path: Path
) -> None:
    config = tiny_run(
        data, tmp_path / "runs", "train.epochs=200", "checkpoint.every_epochs=200", "val.every_epochs=200"
    )
    (tmp_path / "run.yaml").write_text(dump_config(config))
    process = start(
        nodes, tmp_path, "--name", "long-run", "train", "run.yaml", "scaling.cpus_per_worker=1", "--continue"
    )
    assert process.stdout is not None and process.stderr is not None
    out = ""
    for line in process.stdout:
        out += line
        if line.startswith("epoch"):
            break
    else:
        pytest.fail(out + process.stderr.read())
    process.send_signal(signal.SIGINT)
    out += process.stdout.read()  # all by one reader: what it has read ahead no other one would get
    error = process.stderr.read()
    assert process.wait(timeout=300) == 130, out + error
    assert "stopping long-run" in error
    assert "state saved" in out
    assert list((tmp_path / "runs/tiny/checkpoints").glob("*/state.json"))

    code, again, error = submit(nodes, tmp_path, "--follow", "long-run")
    assert code == 130
    assert "state saved" in again
    assert "goes on from its checkpoint" in error


def test_a_wrong_token_and_an_unknown_job_are_refused_in_one_line(nodes: LocalCluster, tmp_path: Path) -> None:
    code, _, error = submit(nodes, tmp_path, "runs", "list", "/tmp", token="0" * 64)
    assert code == 2
    assert "the cluster refuses the token" in error
    assert len(error.strip().splitlines()) == 1
    code, _, error = submit(nodes, tmp_path, "--follow", "raysubmit_nobody")
    assert code == 2
    assert "no such job" in error


def test_a_driver_with_a_wrong_token_hears_what_is_wrong_and_soon(nodes: LocalCluster, tmp_path: Path) -> None:
    connect = "from raypose.launch.cluster import ray_cluster\nwith ray_cluster():\n    pass"
    environment = {**os.environ, **nodes.environment, "RAY_AUTH_TOKEN": "0" * 64}
    done = subprocess.run(
        [sys.executable, "-c", connect], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert f"RAY_ADDRESS: {nodes.address}: the cluster refuses the token" in done.stderr


def test_a_cluster_that_does_not_answer_is_named(nodes: LocalCluster, tmp_path: Path) -> None:
    code, _, error = submit(nodes, tmp_path, "--address", "http://127.0.0.1:9", "runs", "list", "/tmp")
    assert code == 1
    assert "http://127.0.0.1:9: no Ray dashboard answers" in error
