"""A cloud gives notice that it will take a node away: the run saves at once and goes on elsewhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

import raypose
from raypose.telemetry import CheckpointSaved, Event, RunStarted, StepsDone, WorkersFailed
from tests.data_sets import newest_checkpoint, tiny_run
from tests.ray_nodes import nodes_of_one_worker

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WARN_AFTER_STEP = 12


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """A head that trains nothing, two nodes for one worker each, and one more that can take the place of either."""
    with nodes_of_one_worker(3) as cluster:
        yield cluster


def give_notice(cluster: Cluster, node_id: str, seconds: int) -> None:
    """What a handler of spot notices, or a preStop hook, runs on the node."""
    ray_program = str(Path(sys.executable).with_name("ray"))
    command = [ray_program, "drain-node", "--address", cluster.address, "--node-id", node_id]
    why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    subprocess.run(
        [*command, *why, "--deadline-remaining-seconds", str(seconds)], check=True, capture_output=True, timeout=60
    )


def nodes_at_work() -> set[str]:
    """Where a CPU is taken: by a worker of the run."""
    return {
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU") and not available(node["NodeID"])
    }


def available(node_id: str) -> float:
    return float(ray._private.state.available_resources_per_node().get(node_id, {}).get("CPU", 0.0))


@pytest.mark.timeout(400)
def test_a_run_that_is_warned_saves_and_goes_on_on_other_nodes(
    nodes: Cluster, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1")  # Ray's default, which tests go without
    config = tiny_run(
        data, tmp_path, "scaling.workers=2", "scaling.cpus_per_worker=1", "train.epochs=60", "val.every_epochs=60",
        "checkpoint.every_epochs=60", "telemetry.log_every_steps=1",
    )  # fmt: skip
    heard: list[Event] = []
    before: set[str] = set()
    after: set[str] = set()
    doomed = ""

    def warn(event: Event) -> None:
        nonlocal doomed
        heard.append(event)
        starts = sum(isinstance(one, RunStarted) for one in heard)
        if isinstance(event, StepsDone) and event.step >= WARN_AFTER_STEP and not doomed:
            before.update(nodes_at_work())
            doomed = min(before)
            give_notice(nodes, doomed, seconds=300)  # much longer than the run: it must not sit and wait
        if isinstance(event, StepsDone) and starts == 2 and not after:
            after.update(nodes_at_work())

    raypose.train(config, report=warn)
    first, second = (event for event in heard if isinstance(event, RunStarted))
    assert [event.cause for event in heard if isinstance(event, WorkersFailed)] == ["preempted"]
    saved = [event.step for event in heard if isinstance(event, CheckpointSaved)]
    assert saved[0] == second.start_step >= WARN_AFTER_STEP  # no other checkpoint was due before the end
    steps = [event.step for event in heard if isinstance(event, StepsDone)]
    assert steps == list(range(1, 361))  # none done twice
    assert len(before) == len(after) == 2
    assert doomed not in after
    assert (first.start_step, newest_checkpoint(config).progress.images) == (0, 8 * 360)
