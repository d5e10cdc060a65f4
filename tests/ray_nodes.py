"""A Ray cluster of several nodes on this machine, for runs whose nodes come and go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.cluster_utils import Cluster

MEMORY = {"object_store_memory": 100 * 2**20}


@contextmanager
def nodes_of_one_worker(count: int) -> Iterator[Cluster]:
    """A head that trains nothing, and so many nodes for one worker each; this process is connected to them."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **MEMORY})
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=1, **MEMORY)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
