"""Ray Train learns of a new node when raypose sees it, not when Ray looks next."""

from __future__ import annotations

import pytest
import ray
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator

from raypose.launch.nodes import NodeWatch
from tests.ray_nodes import MEMORY, nodes_of_one_worker

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]


def test_room_on_a_new_node_is_counted_at_once() -> None:
    with nodes_of_one_worker(1) as nodes:
        coordinator = get_or_create_autoscaling_coordinator()  # as Ray Train's controller does
        ray.get(coordinator.request_resources.remote("train", [{"CPU": 1.0}] * 2, expire_after_s=100))
        assert len(ray.get(coordinator.get_reserved_resources.remote("train"))) == 1
        nodes.add_node(num_cpus=1, **MEMORY)
        nodes.wait_for_nodes()
        NodeWatch().look()
        assert len(ray.get(coordinator.get_reserved_resources.remote("train"))) == 2
