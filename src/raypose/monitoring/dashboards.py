"""Three pages: one run, all runs, and the service."""

from __future__ import annotations

from raypose.monitoring.grafana import Dashboard, Panel, Query, Row, Unit, Variable
from raypose.telemetry import metric_table as table

_RUN = '{run="$run"}'
_REPLICAS = '{replica=~"$replica"}'
_WINDOW = "[5m]"
QUANTILES = (0.5, 0.95, 0.99)
_SHARES, _PIXELS, _OWN = 'metric!~"images|people|.+_px|.+[.].+"', 'metric=~".+_px"', 'metric=~".+[.].+"'
"""Metrics of a validation: those from 0 to 1, beside which no others can be read, and two kinds of the others."""


def all_dashboards() -> dict[str, Dashboard]:
    """By the name of their files."""
    return {"run": run_dashboard(), "fleet": fleet_dashboard(), "service": service_dashboard()}


def run_dashboard() -> Dashboard:
    """Is it learning, how fast, where does the time go, and what would a loss cost?"""
    shares = (
        (table.DATA_WAIT, "data"), (table.SYNC, "other workers"), (table.VAL_SECONDS, "validation"),
        (table.CHECKPOINT_BLOCKED, "checkpoints"),
    )  # fmt: skip
    return Dashboard(
        "raypose-run",
        "raypose: a run",
        variables=(Variable("run", table.RUN_INFO.name),),
        rows=(
            Row(
                "Now",
                (
                    _stat("done", f"{table.STEP.name}{_RUN} / {table.STEPS_PLANNED.name}{_RUN}", "percentunit"),
                    _stat("workers", f"{table.WORKERS.name}{_RUN}", "none"),
                    _stat("images a second", f"rate({table.SAMPLES.name}{_RUN}{_WINDOW})", "cps"),
                    _stat("checkpoint age", f"{table.CHECKPOINT_AGE.name}{_RUN}", "s"),
                    _stat("restarts", f"sum({table.RESTARTS.name}{_RUN}) or vector(0)", "none"),
                    _stat("bad images", f"{table.BAD_IMAGES.name}{_RUN}", "none"),
                ),
            ),
            Row(
                "Learning",
                (
                    # Of yolo26, the likelihood of keypoints falls below 0.
                    Panel("losses", (Query(f"{table.LOSS.name}{_RUN}", "{{loss}}"),), minimum=None),
                    _plot("validation", _validated(_SHARES), "{{metric}}", maximum=1),
                    _plot("keypoint error", _validated(_PIXELS), "pixels"),
                    Panel("own validators", (Query(_validated(_OWN), "{{metric}}"),), minimum=None),
                    _plot("learning rate", f"{table.LEARNING_RATE.name}{_RUN}", "group {{group}}"),
                    _plot("gradient norm", f"{table.GRADIENT_NORM.name}{_RUN}", "before clipping"),
                    _plot("epoch", f"{table.EPOCH.name}{_RUN}", "epoch"),
                ),
            ),
            Row(
                "Speed",
                (
                    _plot("images a second", f"rate({table.SAMPLES.name}{_RUN}{_WINDOW})", "trained", "cps"),
                    Panel("a step takes", _quantiles(table.STEP_SECONDS.name, _RUN), "s"),
                    Panel(
                        "where time goes",
                        tuple(Query(f"rate({metric.name}{_RUN}{_WINDOW})", words) for metric, words in shares),
                        "percentunit",
                        description="Shares of the time; the rest is the model's.",
                    ),
                    _plot("memory of the leader", f"{table.MEMORY.name}{_RUN}", "peak", "bytes"),
                    _plot("images decoded", f"rate({table.IMAGES.name}{_RUN}{_WINDOW})", "by the leader", "cps"),
                    Panel(
                        "shards fetched",
                        (Query(fetches_an_epoch(_RUN, _WINDOW), "times an epoch"),),
                        "none",
                        description="By the leader's node: 1 or less, and 0 once the cache holds what it reads.",
                    ),
                    _plot("checkpoints", f"increase({table.CHECKPOINTS.name}{_RUN}[1h])", "in an hour"),
                ),
            ),
        ),
    )


def fleet_dashboard() -> Dashboard:
    """All runs side by side, and the machines that they run on."""
    return Dashboard(
        "raypose-fleet",
        "raypose: all runs",
        rows=(
            Row(
                "Runs",
                (
                    _stat("running", f"count({table.RUN_FINISHED.name} == 0) or vector(0)", "none"),
                    _stat("workers", f"sum({table.WORKERS.name}) or vector(0)", "none"),
                    _stat("images a second", f"sum(rate({table.SAMPLES.name}{_WINDOW}))", "cps"),
                    _by_run("images a second", f"rate({table.SAMPLES.name}{_WINDOW})", "cps"),
                    _by_run("done", f"{table.STEP.name} / {table.STEPS_PLANNED.name}", "percentunit"),
                    _by_run("time without data", f"rate({table.DATA_WAIT.name}{_WINDOW})", "percentunit"),
                    _by_run("checkpoint age", f"{table.CHECKPOINT_AGE.name}", "s"),
                    _plot("restarts in an hour", _restarts("1h"), "{{run}}: {{cause}}"),
                    _plot("pose AP", f'{table.VAL_METRIC.name}{{metric="pose_ap"}}', "{{run}}", maximum=1),
                ),
            ),
            Row(
                "Nodes (Ray's own metrics)",
                (
                    _plot("CPU", "ray_node_cpu_utilization / 100", "{{ip}}", "percentunit", maximum=1),
                    _plot("memory", "ray_node_mem_used / ray_node_mem_total", "{{ip}}", "percentunit", maximum=1),
                    _plot("disk in use", disk_share(), "{{ip}}", "percentunit", maximum=1),
                ),
            ),
        ),
    )


def service_dashboard() -> Dashboard:
    """What clients get, what it costs, and what is found in their images."""
    requests = f"sum by (code) (rate(raypose_serve_requests_total{_REPLICAS}{_WINDOW}))"
    busy = f"rate(raypose_serve_model_busy_seconds_total{_REPLICAS}{_WINDOW})"
    drift = f"max by (version, of) (raypose_serve_drift{_REPLICAS})"
    models = f"sum by (role, version) (raypose_serve_model_info{_REPLICAS})"
    changes = f"increase(raypose_serve_model_changes_total{_REPLICAS}[1h])"
    return Dashboard(
        "raypose-service",
        "raypose: the service",
        variables=(Variable("replica", "raypose_serve_queue_images", is_multiple=True),),
        rows=(
            Row(
                "Requests",
                (
                    _plot("requests", requests, "{{code}}", "reqps"),
                    Panel("an answer takes", _quantiles("raypose_serve_request_seconds", _REPLICAS), "s"),
                    _plot("accepted, not answered", f"sum(raypose_serve_queue_images{_REPLICAS})", "images"),
                ),
            ),
            Row(
                "Inside",
                (
                    _plot("stages, on average", _mean("raypose_serve_stage_seconds", "stage"), "{{stage}}", "s"),
                    _plot("images at a time", _mean("raypose_serve_batch_images"), "on average"),
                    _plot("the model is busy", busy, "{{replica}}", "percentunit"),
                ),
            ),
            Row(
                "What is found",
                (
                    _plot("people in an image", _mean("raypose_serve_people", "version"), "{{version}}"),
                    _plot("score of a person", _mean("raypose_serve_scores", "version"), "{{version}}", maximum=1),
                    _plot("megapixels of an image", _mean("raypose_serve_image_megapixels"), "on average"),
                    _plot("drift from the reference set", drift, "{{version}}: {{of}}"),
                    _plot("models", models, "{{role}}: {{version}}", "none"),
                    _plot("changes of the model in an hour", changes, "{{outcome}}", "none"),
                ),
            ),
        ),
    )


def disk_share() -> str:
    """Share of a node's disk that is in use, by Ray's metrics."""
    return "ray_node_disk_usage / (ray_node_disk_usage + ray_node_disk_free)"


def fetches_an_epoch(labels: str, window: str) -> str:
    """How often the leader's node fetches the run's shards while an epoch is trained."""
    epochs = f"delta({table.EPOCH.name}{labels}{window})"
    return f"increase({table.FETCHED.name}{labels}{window}) / ({epochs} * {table.DATA_BYTES.name}{labels})"


def _validated(which: str) -> str:
    return f'{table.VAL_METRIC.name}{{run="$run", {which}}}'


def _restarts(window: str) -> str:
    return f"increase({table.RESTARTS.name}[{window}])"


def _stat(title: str, expression: str, unit: Unit) -> Panel:
    return Panel(title, (Query(expression),), unit, "stat", columns=4)


def _plot(title: str, expression: str, legend: str, unit: Unit = "short", *, maximum: float | None = None) -> Panel:
    return Panel(title, (Query(expression, legend),), unit, maximum=maximum)


def _by_run(title: str, expression: str, unit: Unit) -> Panel:
    return _plot(title, expression, "{{run}}", unit)


def _quantiles(histogram: str, labels: str) -> tuple[Query, ...]:
    buckets = f"sum by (le) (rate({histogram}_bucket{labels}{_WINDOW}))"
    return tuple(Query(f"histogram_quantile({share}, {buckets})", f"{share:.0%} within") for share in QUANTILES)


def _mean(histogram: str, label: str = "") -> str:
    by = f"by ({label}) " if label else ""
    sums = (f"sum {by}(rate({histogram}_{part}{_REPLICAS}{_WINDOW}))" for part in ("sum", "count"))
    return " / ".join(sums)
