"""Everybody who listens to a run in its driver, as its configuration says. They outlive restarts of the workers."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

from raypose.config import RunConfig
from raypose.errors import ConfigError, RunInterruptedError
from raypose.storage import ObjectStore
from raypose.telemetry.callbacks import find_callbacks
from raypose.telemetry.events import Notice, Reporter, RunStopped, fan_out
from raypose.telemetry.guarded import Guarded
from raypose.telemetry.tracking import Tracker, Tracking, parameters_of


@contextlib.contextmanager
def reporting(config: RunConfig, store: ObjectStore, report: Reporter) -> Iterator[Reporter]:
    """`report` and all listeners in one, until the end of the block; an exception that ends it is told to them.

    Enter it before Ray starts: a listener that cannot be had is a ConfigError. `store` is the run's.
    """
    callbacks = find_callbacks(config.telemetry.callbacks)
    _require_packages(config)
    with contextlib.ExitStack() as until_the_end:
        reporters = [report, *_metrics(config, report, until_the_end)]
        others: list[tuple[str, Reporter]] = [
            *callbacks,
            *((name, Tracking(tracker, store)) for name, tracker in _trackers(config, store)),
        ]
        for name, listener in others:
            guarded = Guarded(name, listener, report)
            until_the_end.callback(guarded.close)
            reporters.append(guarded)
        tell = fan_out(*reporters)
        try:
            yield tell
        except BaseException as error:
            interrupted = isinstance(error, RunInterruptedError | KeyboardInterrupt)
            tell(RunStopped(str(error) or type(error).__name__, interrupted))
            raise


def _metrics(config: RunConfig, report: Reporter, until_the_end: contextlib.ExitStack) -> list[Reporter]:
    if config.telemetry.prometheus_port is None:
        return []
    from raypose.telemetry.metrics import RunMetrics, serving

    metrics = RunMetrics(config.name)
    server = serving(metrics, config.telemetry.prometheus_host, config.telemetry.prometheus_port)
    report(Notice(f"metrics for Prometheus at {until_the_end.enter_context(server)}"))
    return [metrics]


def _trackers(config: RunConfig, store: ObjectStore) -> Iterator[tuple[str, Tracker]]:
    mlflow, wandb = config.telemetry.mlflow, config.telemetry.wandb
    if mlflow is not None:
        from raypose.telemetry.mlflow_tracker import MlflowTracker

        yield "MLflow", MlflowTracker(mlflow, name=config.name, folder=store.url, parameters=parameters_of(config))
    if wandb is not None:
        from raypose.telemetry.wandb_tracker import WandbTracker

        yield "W&B", WandbTracker(wandb, name=config.name, folder=store.url, parameters=parameters_of(config))


def _require_packages(config: RunConfig) -> None:
    problems = [
        f"telemetry.{package}: the package {package} is not installed; pip install 'raypose[{package}]'"
        for package in ("mlflow", "wandb")
        if getattr(config.telemetry, package) is not None and importlib.util.find_spec(package) is None
    ]
    if problems:
        raise ConfigError(problems)
