"""The driver of a run: checks it, starts or joins a Ray cluster, trains, and brings the summary home."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from types import FrameType
from typing import Any

from raypose.checkpoint.locate import CONFIG, SUMMARY
from raypose.config import RunConfig, dump_config
from raypose.errors import ConfigError, RayposeError, TrainingError
from raypose.launch.claim import Claim
from raypose.launch.cluster import cluster_address, ray_cluster
from raypose.launch.nodes import NodeWatch, alive_nodes, cpus_for_each, uses_gpu
from raypose.launch.preflight import check_run, name_in_use
from raypose.storage import ObjectStore, open_store
from raypose.storage.scratch import scratch_folder
from raypose.telemetry import Notice, Reporter, WorkersFailed, WorkersStarting
from raypose.telemetry.listeners import reporting

_POLL_S = 0.5
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def train(
    config: RunConfig,
    report: Reporter,
    *,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    until_epoch: int | None = None,
) -> dict[str, Any]:
    """Run `config` on the Ray cluster that RAY_ADDRESS names, or on one started for it; returns the summary.

    Everything a user can get wrong is raised before Ray starts. Raises RunInterruptedError when Ctrl-C or SIGTERM
    stopped it, `should_stop` said so, or `until_epoch` epochs are complete: the workers have saved a checkpoint then.
    Several runs may share a connection to Ray, each in a thread of its own. Of two calls that train one run at once,
    the later goes on from the last checkpoint, and the earlier raises RunTakenOverError.
    """
    config = config.located(Path.cwd())
    store = open_store(config.storage).child(config.name)
    check_run(config, store, resume=resume)
    if resume and (summary := _complete(config, store)):
        report(Notice(f"{store.url}: complete, and its configuration is the same; there is nothing left to do"))
        return summary
    with reporting(config, store, report) as tell:
        tell(WorkersStarting(_workers_in_words(config), cluster_address()))
        with ray_cluster(_local_cpus(config)), scratch_folder("ray") as records:
            # Once there is a cluster: where none answers, no run has begun whose name would be taken then.
            if not resume and not store.write_new(CONFIG, dump_config(config).encode()):
                raise ConfigError(name_in_use(config, store))  # begun by somebody else since it was checked
            _fit(config, store, tell, records, should_stop, until_epoch)
    return dict(json.loads(store.read(SUMMARY)))


def _complete(config: RunConfig, store: ObjectStore) -> dict[str, Any]:
    """The summary of a run that has nothing left to do; empty where something is, or other settings are asked for."""
    if not store.exists(SUMMARY) or store.read(CONFIG) != dump_config(config).encode():
        return {}
    try:
        summary = dict(json.loads(store.read(SUMMARY)))
    except ValueError:  # damaged: it is written anew
        return {}
    return summary if summary.get("status") == "completed" else {}


def _fit(
    config: RunConfig,
    store: ObjectStore,
    report: Reporter,
    records: Path,
    should_stop: Callable[[], bool],
    until_epoch: int | None,
) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from raypose.launch.failures import last_line
    from raypose.launch.monitor import RunMonitor

    # Beside the driver, without which there is no run, and not on a node that may be lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    monitor = ray.remote(num_cpus=0, scheduling_strategy=here)(RunMonitor).remote(store.url, _wanted(config))
    launch = Claim.take(store).launch
    for attempt in itertools.count():
        trainer = _trainer(config, launch, monitor, str(records / str(attempt)), until_epoch)
        failure = _watch(trainer.fit, monitor, report, should_stop)
        outcome: RayposeError | None = ray.get(monitor.outcome.remote())
        if outcome is not None:
            raise outcome
        if failure is not None:
            raise TrainingError(f"{store.url}: {last_line(failure)}; see the Ray logs") from failure
        if not ray.get(monitor.moves.remote()):
            return
        report(
            WorkersFailed(
                "preempted", "a node of the run is about to be taken away; all have saved and go on elsewhere"
            )
        )


def _trainer(config: RunConfig, launch: str, monitor: Any, records: str, until_epoch: int | None) -> Any:
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchConfig

    from raypose.launch.failures import TellFailures
    from raypose.launch.trainer import StreamingTrainer
    from raypose.launch.worker import train_function

    return StreamingTrainer(
        train_function,
        train_loop_config={
            "config": config.model_dump_json(),
            "launch": launch,
            "monitor": monitor,
            "until_epoch": until_epoch,
        },
        torch_config=TorchConfig(timeout_s=config.scaling.collective_timeout_s),
        scaling_config=ScalingConfig(
            num_workers=_worker_numbers(config),
            elastic_resize_monitor_interval_s=config.scaling.resize_every_s,
            use_gpu=_uses_gpu(config),
            resources_per_worker=_resources(config),
        ),
        run_config=RayRunConfig(
            # Every start is a new Ray run: what to continue from is decided by raypose's checkpoints alone.
            name=f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
            # Ray Train keeps the checkpoints here that are reported to it, and none is: what it does write, an empty
            # marker of its own, needs no place that all nodes see, and no second way to reach a bucket.
            storage_path=records,
            failure_config=FailureConfig(max_failures=config.scaling.max_failures),
            callbacks=[TellFailures(monitor)],
        ),
    )


def _watch(
    fit: Callable[[], object], monitor: Any, report: Reporter, should_stop: Callable[[], bool]
) -> BaseException | None:
    """Run `fit` to its end while events flow to `report`; a first Ctrl-C or SIGTERM asks the workers to save and stop.

    So does `should_stop`. While it waits for workers, either ends it at once: `fit` is left to itself then.

    Returns what `fit` raised. Fits in a thread of its own, because Ray would otherwise take Ctrl-C for itself.
    """
    import ray

    fitting: Future[object] = Future()
    nodes = NodeWatch()

    def fit_and_tell() -> None:
        try:
            fitting.set_result(fit())
        except BaseException as error:
            fitting.set_exception(error)

    # A daemon, so that a second Ctrl-C does not have to wait for it.
    threading.Thread(target=fit_and_tell, name="raypose-fit", daemon=True).start()
    with _stop_signals(monitor):
        is_given_up = False
        while not (fitting.done() or is_given_up):
            events, is_given_up = ray.get(monitor.news.remote())
            for event in events:
                report(event)
            if should_stop():
                monitor.request_stop.remote()
            nodes.look()
            wait([fitting], timeout=_POLL_S)
        events, _ = ray.get(monitor.news.remote())
        for event in events:
            report(event)
        return fitting.exception() if fitting.done() else None


@contextlib.contextmanager
def _stop_signals(monitor: Any) -> Iterator[None]:
    """Until the end of the block, SIGINT and SIGTERM ask the run to stop; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals: whoever started this one decides
        return

    def request_stop(number: int, _: FrameType | None) -> None:
        for each in _STOP_SIGNALS:
            signal.signal(each, signal.default_int_handler)
        monitor.request_stop.remote()

    # Installed after ray.init, which puts handlers of its own in place.
    before = {number: signal.signal(number, request_stop) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _worker_numbers(config: RunConfig) -> int | tuple[int, int]:
    scaling = config.scaling
    return scaling.workers if isinstance(scaling.workers, int) else (scaling.min_workers, scaling.max_workers)


def _workers_in_words(config: RunConfig) -> str:
    least, most = config.scaling.min_workers, config.scaling.max_workers
    return f"{least}" if least == most else f"{least} to {most}"


def _local_cpus(config: RunConfig) -> int:
    """Ray's own Ray may count more CPUs than there are: a small machine can still be asked for many workers."""
    per_worker = config.scaling.cpus_per_worker or 1.0
    return max(os.cpu_count() or 1, math.ceil(config.scaling.max_workers * per_worker))


def _resources(config: RunConfig) -> dict[str, float]:
    gpus = 1.0 if _uses_gpu(config) else 0.0
    cpus = config.scaling.cpus_per_worker or cpus_for_each(alive_nodes(), config.scaling.max_workers, gpus=gpus)
    return {"CPU": cpus, **({"GPU": gpus} if gpus else {})}


def _wanted(config: RunConfig) -> str:
    each = " and ".join(f"{count:g} {kind}" for kind, count in _resources(config).items())
    return f"scaling.workers wants {config.scaling.min_workers} of {each} each"


def _uses_gpu(config: RunConfig) -> bool:
    return uses_gpu(alive_nodes(), config.scaling.device)
