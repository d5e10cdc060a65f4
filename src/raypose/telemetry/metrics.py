"""A run's metrics for Prometheus: one endpoint in the driver, which sees every restart of the workers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from raypose.errors import ConfigError
from raypose.telemetry import metric_table as table
from raypose.telemetry.events import (
    CheckpointSaved,
    EpochValidated,
    Event,
    RunFinished,
    RunStarted,
    StepsDone,
    WorkersFailed,
)
from raypose.telemetry.metric_table import METRICS, STEP_SECONDS_BUCKETS, Metric


class RunMetrics:
    """A Reporter that keeps the metrics of `metric_table`.

    Counters count what this process has heard of: steps that are done again after a restart count again, and none ever
    goes back. Where the run is, is for the gauges to say.
    """

    def __init__(self, run: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._run = run
        self._clock = clock
        self._collectors = {metric.name: _collector(metric, self.registry) for metric in METRICS}
        self._bad_images = 0
        self._has_started = False
        self._failure = "unknown"
        self._durable_at_s = clock()
        self._of(table.CHECKPOINT_AGE).set_function(lambda: self._clock() - self._durable_at_s)
        # There from the first scrape, as 0: to see something grow takes two values.
        for metric in METRICS:
            if metric.kind == "counter" and not metric.labels:
                self._of(metric)
        for cause in table.RESTART_CAUSES:
            self._of(table.RESTARTS, cause)

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._start(event)
        elif isinstance(event, StepsDone):
            self._add_steps(event)
        elif isinstance(event, EpochValidated):
            self._add_epoch(event)
        elif isinstance(event, CheckpointSaved):
            self._add_checkpoint(event)
        elif isinstance(event, WorkersFailed):
            self._failure = event.cause
        elif isinstance(event, RunFinished):
            self._of(table.RUN_FINISHED).set(1)

    def _start(self, event: RunStarted) -> None:
        if self._has_started:
            self._of(table.RESTARTS, self._failure).inc()
        self._has_started, self._failure = True, "unknown"
        # Another number of workers may mean another device: no stale description beside the new one.
        self._collectors[table.RUN_INFO.name].clear()
        self._of(table.RUN_INFO, event.architecture, event.optimizer, event.device, event.precision).set(1)
        self._of(table.RUN_FINISHED).set(0)
        self._of(table.WORKERS).set(event.workers)
        self._of(table.STEP).set(event.start_step)
        self._of(table.STEPS_PLANNED).set(event.total_steps)
        self._of(table.DATA_BYTES).set(event.data_bytes)

    def _add_steps(self, event: StepsDone) -> None:
        self._of(table.STEP).set(event.step)
        self._of(table.EPOCH).set(event.epoch)
        for seconds in event.step_seconds:
            self._of(table.STEP_SECONDS).observe(seconds)
        self._of(table.SAMPLES).inc(event.samples)
        self._of(table.IMAGES).inc(event.images_read)
        self._of(table.FETCHED).inc(event.fetched_bytes)
        self._of(table.DATA_WAIT).inc(event.data_wait_seconds)
        self._of(table.SYNC).inc(event.sync_seconds)
        self._of(table.MEMORY).set(event.memory_bytes)
        self._set_each(table.LOSS, event.losses)
        self._set_each(table.LEARNING_RATE, {str(index): rate for index, rate in enumerate(event.learning_rates)})
        if event.gradient_norm is not None:
            self._of(table.GRADIENT_NORM).set(event.gradient_norm)

    def _add_epoch(self, event: EpochValidated) -> None:
        self._of(table.VAL_SECONDS).inc(event.val_seconds)
        self._set_each(table.VAL_METRIC, event.metrics)

    def _add_checkpoint(self, event: CheckpointSaved) -> None:
        self._durable_at_s = self._clock()
        self._of(table.CHECKPOINTS).inc()
        self._of(table.CHECKPOINT_BLOCKED).inc(event.blocked_seconds)
        # A restart tells again of images that had been bad before the checkpoint it continues from.
        self._of(table.BAD_IMAGES).inc(max(0, event.bad_images - self._bad_images))
        self._bad_images = max(self._bad_images, event.bad_images)

    def _set_each(self, metric: Metric, values: Mapping[str, float]) -> None:
        for label, value in values.items():
            self._of(metric, label).set(value)

    def _of(self, metric: Metric, *labels: str) -> Any:
        return self._collectors[metric.name].labels(self._run, *labels)


@contextlib.contextmanager
def serving(metrics: RunMetrics, host: str, port: int) -> Iterator[str]:
    """Answer scrapes until the end of the block; yields the URL. Port 0 takes one that is free."""
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except OSError as error:
        raise ConfigError(
            f"telemetry.prometheus_port: cannot listen on {host}:{port}: {error.strerror or error};"
            " choose another port, 0 for any that is free, or null for none"
        ) from error
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _collector(metric: Metric, registry: CollectorRegistry) -> Any:
    labels = ("run", *metric.labels)
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.help, labels, registry=registry, buckets=STEP_SECONDS_BUCKETS)
    kind = Counter if metric.kind == "counter" else Gauge
    return kind(metric.name, metric.help, labels, registry=registry)
