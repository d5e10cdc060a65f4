"""Runs of the bare engine in this process, cut off after a step if need be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from raypose.checkpoint import CheckpointStore, Snapshot
from raypose.config import RunConfig
from raypose.engine.loop import run
from raypose.engine.setup import Parts, prepare
from raypose.engine.world import World
from raypose.storage import open_store
from raypose.telemetry import Event, StepsDone


class Power(Exception):  # noqa: N818
    """Stands for the power cut: nothing of the run survives it but what is in storage."""


def train(
    config: RunConfig, *, cut_after: int | None = None, spoil: Callable[[Parts], None] = lambda _: None
) -> tuple[list[Event], Snapshot]:
    """Run or continue; returns what was reported and the newest checkpoint. `spoil` may change the parts before."""
    store = open_store(config.storage).child(config.name)
    events: list[Event] = []

    def report(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepsDone) and event.step == cut_after:
            raise Power

    torch.set_num_threads(1)
    parts = prepare(config, World(), store, report)
    spoil(parts)
    if cut_after is None:
        run(parts, report)
    else:
        with pytest.raises(Power):
            run(parts, report)
    latest = CheckpointStore(store).load_latest(pytest.fail)
    assert latest is not None
    return events, latest
