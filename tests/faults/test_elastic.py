"""A run with a range of workers on a cluster that loses a node and gets another one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

import raypose
from raypose.checkpoint import CheckpointStore
from raypose.errors import RunInterruptedError
from raypose.storage import open_store
from raypose.telemetry import CheckpointSaved, Event, RunStarted, StepsDone
from tests.data_sets import build_synthetic, tiny_run
from tests.ray_nodes import nodes_of_one_worker

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that trains nothing, and two nodes for one worker each."""
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")
    with nodes_of_one_worker(2) as cluster:
        yield cluster


@pytest.mark.timeout(600)
def test_a_run_shrinks_with_its_cluster_and_grows_again(nodes: Cluster, tmp_path: Path) -> None:
    data = build_synthetic(tmp_path / "data")
    config = tiny_run(
        data, tmp_path, "scaling.workers={min: 1, max: 2}", "scaling.virtual_workers=4", "scaling.cpus_per_worker=1",
        "scaling.resize_every_s=5", "train.epochs=1000", "val.every_epochs=1000", "checkpoint.every_steps=5",
    )  # fmt: skip
    starts: list[RunStarted] = []
    last_step, stopping = 0, False

    def disturb(event: Event) -> None:
        nonlocal last_step, stopping
        if isinstance(event, StepsDone):
            last_step = event.step
        if isinstance(event, RunStarted):
            starts.append(event)
        if isinstance(event, CheckpointSaved) and not stopping:
            stopping = len(starts) == 3 and event.step - starts[-1].start_step >= 5  # a second signal stops at once
            _next_disturbance(nodes, [start.workers for start in starts], event.step - starts[-1].start_step)

    with pytest.raises(RunInterruptedError, match="state saved"):
        raypose.train(config, report=disturb)
    assert [start.workers for start in starts] == [2, 1, 2]
    steps = [start.start_step for start in starts]
    assert steps == sorted(steps)
    assert steps[1] >= 10
    saved = CheckpointStore(open_store(str(tmp_path / "tiny"))).load_latest(pytest.fail)
    assert saved is not None
    assert saved.progress.step == last_step
    assert saved.progress.images == 8 * last_step  # none twice, none left out


def _next_disturbance(nodes: Cluster, workers: list[int], steps_since_start: int) -> None:
    """A node is lost, then another one comes; when both workers are at work again, it is enough."""
    if workers == [2] and len(nodes.worker_nodes) == 2 and steps_since_start >= 10:
        nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
    elif workers == [2, 1] and len(nodes.worker_nodes) == 1:
        nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    elif workers == [2, 1, 2] and steps_since_start >= 5:
        # SIGTERM is answered by the nodes that this process has started.
        os.kill(os.getpid(), signal.SIGINT)
