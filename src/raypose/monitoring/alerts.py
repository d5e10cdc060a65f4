"""What somebody should be woken for, or told in the morning; each with the page that says what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from raypose.monitoring.dashboards import disk_share, fetches_an_epoch
from raypose.telemetry import metric_table as table

RUNBOOK = "docs/troubleshooting.md"
"""In raypose's repository; a heading for each alert."""

_RUNS = f"{table.RUN_FINISHED.name} == 0"
_REQUESTS = "raypose_serve_requests_total"
_OUR_FAULTS = 'code=~"internal|not_ready|timed_out"'
_REFUSED = 'code="overloaded"'
_BURNING = 0.0144
"""One error in a thousand, times 14.4: a budget for thirty days is gone in two (Google's SRE workbook, chapter 5)."""


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule of Prometheus. `for_` is how long it has to hold before anybody hears of it."""

    name: str
    expression: str
    for_: str
    severity: Literal["page", "ticket"]
    summary: str

    @property
    def runbook(self) -> str:
        return f"{RUNBOOK}#{self.name.lower()}"

    def to_dict(self) -> dict[str, Any]:
        """As Prometheus and its operator read it."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.for_,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "runbook": self.runbook},
        }


def _share_of_requests(labels: str, window: str) -> str:
    return f"sum(rate({_REQUESTS}{{{labels}}}[{window}])) / sum(rate({_REQUESTS}[{window}]))"


RUN_ALERTS = (
    Alert(
        "RayposeStepStalled",
        f"changes({table.STEP.name}[15m]) == 0 and on (run) {_RUNS}",
        "5m",
        "page",
        "Run {{ $labels.run }} has not made a step for 20 minutes.",
    ),
    Alert(
        "RayposeDataBound",
        f"rate({table.DATA_WAIT.name}[15m]) > 0.3 and on (run) {_RUNS}",
        "15m",
        "ticket",
        "Run {{ $labels.run }} waits for data {{ $value | humanizePercentage }} of its time.",
    ),
    Alert(
        "RayposeCacheThrash",
        # A node needs each shard once an epoch at most; at first it fetches well ahead, but nothing twice.
        f"{fetches_an_epoch('', '[30m]')} > 2 and {table.FETCHED.name} > 2 * {table.DATA_BYTES.name}",
        "15m",
        "ticket",
        "The node of {{ $labels.run }} fetches its shards {{ $value | humanize }} times an epoch.",
    ),
    Alert(
        "RayposeCheckpointTooOld",
        f"{table.CHECKPOINT_AGE.name} > 7200 and on (run) {_RUNS}",
        "5m",
        "page",
        "The last checkpoint of {{ $labels.run }} is {{ $value | humanizeDuration }} old.",
    ),
    Alert(
        "RayposeLossNotFinite",
        # Nothing but "not a number" differs from itself.
        f"({table.LOSS.name} != {table.LOSS.name}) or (abs({table.LOSS.name}) == Inf)",
        "0m",
        "page",
        "Loss {{ $labels.loss }} of {{ $labels.run }} is not finite.",
    ),
    Alert(
        "RayposeWorkersFlapping",
        f"sum by (run) (increase({table.RESTARTS.name}[1h])) > 3",
        "0m",
        "page",
        "The workers of {{ $labels.run }} were restarted {{ $value | humanize }} times in an hour.",
    ),
    Alert(
        "RayposeBadImages",
        f"increase({table.BAD_IMAGES.name}[1h]) > 0",
        "0m",
        "ticket",
        "{{ $value | humanize }} images of {{ $labels.run }} did not decode.",
    ),
)
SERVICE_ALERTS = (
    Alert(
        "RayposeErrorBudgetBurn",
        # The long window says that it matters, the short one that it has not stopped.
        " and ".join(f"{_share_of_requests(_OUR_FAULTS, window)} > {_BURNING}" for window in ("1h", "5m")),
        "2m",
        "page",
        "The service fails {{ $value | humanizePercentage }} of its requests.",
    ),
    Alert(
        "RayposeQueueSaturated",
        f"{_share_of_requests(_REFUSED, '5m')} > 0.01",
        "5m",
        "page",
        "{{ $value | humanizePercentage }} of the requests are refused: there are more than replicas can answer.",
    ),
    Alert(
        "RayposeModelRefused",
        'increase(raypose_serve_model_changes_total{outcome="refused"}[1h]) > 0',
        "0m",
        "ticket",
        "A new model was refused; the one before it still answers.",
    ),
    Alert(
        "RayposeDrift",
        "max by (version, of) (raypose_serve_drift) > 0.25",
        "30m",
        "ticket",
        "Requests differ from the reference set in {{ $labels.of }}: index {{ $value | humanize }}.",
    ),
)
NODE_ALERTS = (
    Alert(
        "RayposeDiskFilling",
        f"{disk_share()} > 0.9",
        "10m",
        "page",
        "The disk of {{ $labels.ip }} is {{ $value | humanizePercentage }} full.",
    ),
)
GROUPS = {"raypose-runs": RUN_ALERTS, "raypose-service": SERVICE_ALERTS, "raypose-nodes": NODE_ALERTS}


def rule_groups() -> dict[str, Any]:
    """The content of a rule file, and of a PrometheusRule's `spec`."""
    return {
        "groups": [{"name": name, "rules": [alert.to_dict() for alert in alerts]} for name, alerts in GROUPS.items()]
    }
