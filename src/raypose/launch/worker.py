"""What each Ray Train worker runs: find its place among the others, then hand over to the engine."""

from __future__ import annotations

import os
from typing import Any

import ray
import ray.train
import torch

from raypose.config import RunConfig
from raypose.engine.loop import run
from raypose.engine.setup import prepare
from raypose.engine.world import World
from raypose.errors import RayposeError
from raypose.storage import open_store
from raypose.telemetry import Event, Reporter, fan_out
from raypose.telemetry.logbook import Logbook


def train_function(assignment: dict[str, Any]) -> None:
    """Train as one of the workers. `assignment` holds the configuration as JSON and the run's monitor."""
    monitor = assignment["monitor"]
    if ray.get(monitor.failure.remote()) is not None:
        # The group was restarted after an error that would come again; the driver raises it.
        return
    config = RunConfig.model_validate_json(assignment["config"])
    try:
        _train(config, monitor)
    except RayposeError as error:
        ray.get(monitor.fail.remote(error))
        raise


def _train(config: RunConfig, monitor: Any) -> None:
    world = _world()
    if world.device == "cpu":
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    store = open_store(config.storage).child(config.name)

    def tell_driver(event: Event) -> None:
        monitor.push.remote(event)

    if not world.is_leader:
        run(prepare(config, world, store, _ignore), _ignore)
        return
    parts = prepare(config, world, store, tell_driver)
    logbook = Logbook(store, start_step=parts.progress.step, tensorboard=config.telemetry.tensorboard)
    reporter: Reporter = fan_out(logbook, tell_driver)
    try:
        run(parts, reporter)
    finally:
        logbook.close()
    # Sent in order, so that this one's answer means that the driver can collect all of them.
    ray.get(monitor.failure.remote())


def _world() -> World:
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    return World(rank=context.get_world_rank(), size=context.get_world_size(), device=str(device))


def _ignore(event: Event) -> None:
    """Only the leader speaks for the run."""
