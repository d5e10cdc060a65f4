"""Everybody who listens to a run in its driver, as its configuration says. They outlive restarts of the workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from raypose.config import RunConfig
from raypose.telemetry.events import Notice, Reporter, fan_out


@contextlib.contextmanager
def reporting(config: RunConfig, report: Reporter) -> Iterator[Reporter]:
    """`report` and all listeners in one, until the end of the block.

    Enter it before Ray starts: a listener that cannot be had is a ConfigError.
    """
    telemetry = config.telemetry
    reporters = [report]
    with contextlib.ExitStack() as open_until_the_end:
        if telemetry.prometheus_port is not None:
            from raypose.telemetry.metrics import RunMetrics, serving

            metrics = RunMetrics(config.name)
            url = open_until_the_end.enter_context(
                serving(metrics, telemetry.prometheus_host, telemetry.prometheus_port)
            )
            reporters.append(metrics)
            report(Notice(f"metrics for Prometheus at {url}"))
        yield fan_out(*reporters)
