"""What each Ray Train worker runs: find its place among the others, then hand over to the engine.

Ray's controller loads this module to find the function and needs nothing else of it, so torch and the engine are
imported where they are used: that is seconds of every start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import ray

from raypose.config import RunConfig
from raypose.errors import NodeLeavingError, RayposeError, RunInterruptedError, RunTakenOverError, TrainingError
from raypose.launch.claim import Claim, ClaimedStore, watching
from raypose.storage import open_store
from raypose.telemetry import Event, fan_out

if TYPE_CHECKING:
    from raypose.engine.world import World


def train_function(assignment: dict[str, Any]) -> None:
    """Train as one of the workers. `assignment` holds the configuration as JSON, the launch that claims the run,
    its monitor and `until_epoch`.
    """
    monitor = assignment["monitor"]
    if ray.get(monitor.begin.remote()) is not None:
        # The group was restarted after an error that would come again; the driver raises it.
        return
    config = RunConfig.model_validate_json(assignment["config"])
    try:
        _train(config, assignment["launch"], monitor, assignment["until_epoch"])
    except NodeLeavingError:
        # Ray would let them go on until the node is gone, or count an error of theirs as a failure.
        ray.get(monitor.move.remote())
    except RunInterruptedError as interruption:
        # All workers stop after the same step, so nobody waits for anybody: no reason to fail the group.
        ray.get(monitor.end.remote(interruption))
    except RayposeError as error:
        ray.get(monitor.end.remote(error))
        raise


def _train(config: RunConfig, launch: str, monitor: Any, until_epoch: int | None) -> None:
    from raypose.engine.loop import run
    from raypose.engine.setup import prepare
    from raypose.launch.heartbeat import HeartbeatThread
    from raypose.launch.preemption import PreemptionWarnings
    from raypose.telemetry.logbook import Logbook

    world = _world()
    run_store = open_store(config.storage).child(config.name)

    def tell_driver(event: Event) -> None:
        monitor.push.remote(event)

    def should_stop() -> bool:
        return bool(ray.get(monitor.stop_requested.remote()))

    def give_up(error: RunTakenOverError) -> None:
        # In this order: what the workers say of being stopped then is not the reason.
        monitor.end.remote(error)
        monitor.request_stop.remote()

    warnings = PreemptionWarnings()
    with HeartbeatThread(monitor, world.rank, world.size), _explained(config, monitor):
        taken = Claim(run_store, launch)
        taken.require_shared()
        # Before the newest checkpoint is looked for: nobody else adds one from here on.
        claim = taken.renewed() if world.is_leader else None
        store = ClaimedStore(run_store, cast("Claim", world.from_leader(claim)))
        if not world.is_leader:
            run(prepare(config, world, store, _ignore), _ignore, should_stop, warnings.is_new, until_epoch)
            return
        with watching(store.claim, give_up):
            parts = prepare(config, world, store, tell_driver)
            with Logbook(store, start_step=parts.progress.step, tensorboard=config.telemetry.tensorboard) as logbook:
                run(parts, fan_out(logbook, tell_driver), should_stop, warnings.is_new, until_epoch)
    # Calls of one worker are answered in order: when this one is, the driver can collect all events.
    ray.get(monitor.outcome.remote())


@contextlib.contextmanager
def _explained(config: RunConfig, monitor: Any) -> Iterator[None]:
    """Say what to do about too little GPU memory, and whom a worker has waited for in vain."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        # Half a micro-batch would have other BatchNorm statistics: that is another recipe, and for the user to choose.
        raise TrainingError(
            f"scaling.virtual_workers: {config.micro_batch} images of {config.train.imgsz} px at a time do not fit the"
            f" GPU ({str(error).splitlines()[0]}); start a new run with virtual_workers of"
            f" {config.scaling.lanes * 2} or a smaller train.batch, train.imgsz or model"
        ) from error
    except RuntimeError as error:
        if "timed out" not in str(error).lower():
            raise
        standing = ray.get(monitor.standing.remote())
        # Not an error of raypose's own, after which nothing would be tried again.
        raise RuntimeError(
            f"waited for other workers for {config.scaling.collective_timeout_s} s: {standing}"
        ) from error


def _world() -> World:
    import ray.train
    import ray.train.torch
    import torch

    from raypose.engine.world import World

    context = ray.train.get_context()
    device = str(ray.train.torch.get_device())
    if device == "cpu":
        torch.set_num_threads(reserved_threads())
    return World(
        rank=context.get_world_rank(),
        size=context.get_world_size(),
        device=device,
        local_size=context.get_local_world_size(),
    )


def reserved_threads() -> int:
    """As many as the CPUs that this worker has reserved, whatever OMP_NUM_THREADS says.

    Somebody may have exported that for all processes of a host, and two workers with more threads than cores train
    several times slower. Besides, it decides in which order numbers are added up, so it belongs to the configuration.
    """
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1.0)))


def _ignore(event: Event) -> None:
    """Only the leader speaks for the run."""
