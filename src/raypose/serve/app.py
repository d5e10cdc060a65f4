"""The Ray Serve application. `import_path: raypose.serve.app:build` in KubeRay's `serveConfigV2`."""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig

from raypose.config.serve_schema import ReplicaConfig, ServeConfig, serve_config_of
from raypose.serve.replica import PoseReplica, user_config_of

DEPLOYMENT = "pose"
"""What the one deployment is called; `serveConfigV2` changes its `user_config` under this name."""
_SPARE_REQUESTS = 64
"""Ongoing requests beyond those that have an image in the queue: bodies on their way, health checks, refusals."""


def build(args: dict[str, Any]) -> Application:
    """From the values of a service's configuration, or `{"config": path}`."""
    return application(serve_config_of(args).located(Path.cwd()))


def application(config: ServeConfig) -> Application:
    """One deployment, which is ingress and model in one: an image crosses no process border behind the proxy."""
    replicas = config.replicas
    scale: dict[str, Any] = {"num_replicas": replicas.count}
    if replicas.most is not None:
        scale = {
            "autoscaling_config": {
                "min_replicas": replicas.count,
                "max_replicas": replicas.most,
                "target_ongoing_requests": replicas.target_requests,
            }
        }
    most_requests = config.limits.queue_images + _SPARE_REQUESTS
    deployment = serve.deployment(
        name=DEPLOYMENT,
        user_config=user_config_of(config),
        max_ongoing_requests=most_requests,
        max_queued_requests=most_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        graceful_shutdown_timeout_s=replicas.drain_s,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=2,
        health_check_timeout_s=30,
        ray_actor_options={"num_cpus": cpus_of(replicas), "num_gpus": replicas.gpus},
        **scale,
    )(serve.ingress()(PoseReplica))
    # By default every `serve.run` counts as new code and replaces all replicas. Under the same version only
    # `user_config` is compared, and changed in place.
    bound: Application = deployment.options(_internal=True, version=_code_version(config)).bind(config)
    return bound


def _code_version(config: ServeConfig) -> str:
    """Equal for configurations that differ in nothing but what may change in place."""
    fixed = config.model_dump_json(exclude=set(user_config_of(config)))
    return hashlib.sha256(f"{version('raypose')} {fixed}".encode()).hexdigest()


def cpus_of(replicas: ReplicaConfig) -> float:
    """Logical CPUs of each replica. Ray gives it as many threads."""
    if replicas.cpus is not None:
        return replicas.cpus
    return max(1, (os.cpu_count() or 1) // (replicas.most or replicas.count))
