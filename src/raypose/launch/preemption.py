"""Notices that nodes are about to be taken away: clouds give them for spot instances, Kubernetes for drained nodes."""

from __future__ import annotations


class PreemptionWarnings:
    """What Ray knows of nodes of this run that will soon be gone. All workers ask equally often, and agree."""

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()

    def is_new(self) -> bool:
        """Whether another node has been given notice since the last call."""
        import ray.train

        notice = ray.train.get_preemption_info()
        nodes = frozenset(notice.preempted_node_ids) if notice is not None else frozenset()
        is_new = not nodes <= self._known
        self._known |= nodes
        return is_new
