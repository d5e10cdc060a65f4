"""Processes for tests, forked from one that has loaded already what takes seconds to load."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext


def forking() -> ForkServerContext:
    """The same for all tests of a process: who first starts a process decides what all later ones find loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pytest", "hypothesis", "raypose.data.build", "raypose.engine.loop", "raypose.engine.setup"]
    )
    return context
