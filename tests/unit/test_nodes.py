"""What each worker can have of a cluster's nodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose.errors import ConfigError
from raypose.launch.nodes import cpus_for_each, share_for


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "expected"),
    [
        ([{"CPU": 2.0}] * 3, 1, 0.0, 2.0),  # and not the six of all nodes, which none has
        ([{"CPU": 2.0}] * 3, 2, 0.0, 2.0),
        ([{"CPU": 2.0}] * 3, 4, 0.0, 1.0),
        ([{"CPU": 16.0}, {"CPU": 64.0, "GPU": 8.0}, {"CPU": 64.0, "GPU": 8.0}], 16, 1.0, 8.0),  # none goes to the head
        ([{"CPU": 8.0}], 3, 0.0, 2.0),
        ([{"CPU": 1.0}], 4, 0.0, 1.0),
        ([{"memory": 1.0}], 1, 0.0, 1.0),  # a head without CPUs, whose workers are yet to come
    ],
)
def test_no_worker_asks_for_more_than_a_node_has(
    nodes: list[dict[str, float]], workers: int, gpus: float, expected: float
) -> None:
    assert cpus_for_each(nodes, workers, gpus=gpus) == expected


GPU_NODES = [{"CPU": 64.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}]


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "expected"),
    [
        ([{"CPU": 2.0}] * 3, 1, "auto", (2, 0.0)),
        ([{"CPU": 8.0}, {"CPU": 2.0}], 2, "auto", (4, 0.0)),
        (GPU_NODES, 2, "auto", (8, 1.0)),  # and not the forty of all nodes, which none with a GPU has
        (GPU_NODES, 4, "auto", (4, 0.5)),
        (GPU_NODES, 12, "cuda", (1, 0.1666)),  # six on a GPU: Ray would make 0.1667 of a sixth, and have room for five
        (GPU_NODES, 2, "cpu", (32, 0.0)),
    ],
)
def test_workers_that_predict_fit_their_nodes(
    nodes: list[dict[str, float]], workers: int, device: str, expected: tuple[int, float]
) -> None:
    assert share_for(nodes, workers, device) == expected


def test_workers_wait_for_gpus_of_a_cluster_and_not_for_those_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    assert share_for([{"CPU": 4.0}], 2, "cuda") == (1, 1.0)  # an autoscaler may bring them
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(ConfigError, match=r"device cuda: .* no GPU on this machine; use cpu or auto"):
        share_for([{"CPU": 4.0}], 2, "cuda")


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(1, 12))
def test_all_workers_fit_and_one_cpu_more_would_not(cpus: list[int], workers: int) -> None:
    each = cpus_for_each([{"CPU": float(count)} for count in cpus], workers)
    if sum(cpus) >= workers:
        assert sum(count // each for count in cpus) >= workers
    assert sum(count // (each + 1) for count in cpus) < workers
