"""Rules for jobs: when they end, what is cleared away, and that a retry continues."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import yaml

from raypose.k8s.manifest import Finding, Group, Manifest, at
from raypose.k8s.mounted import ConfigMaps

CommandProblem = Callable[[list[str]], str | None]
"""What is wrong with the arguments of a `raypose` command, or None."""

_CONTINUES = {"train": ("--continue", "--resume"), "tune": ("--continue", "--resume")}


def check_job(manifest: Manifest, files: ConfigMaps, problem_of: CommandProblem) -> Iterator[Finding]:
    """Every rule of this file, for a RayJob or the job of a RayCronJob."""
    job = manifest.job
    if job is None:
        return
    yield from chain(
        _check_deadlines(manifest, job),
        _check_deletion(manifest, job),
        _check_submission(manifest, job),
        _check_runtime(manifest, job),
        _check_entrypoint(manifest, job, files, problem_of),
    )
    if manifest.kind == "RayCronJob" and len(str(manifest.spec.get("schedule", "")).split()) != 5:
        yield Finding("schedule", manifest.place, f"{manifest.spec.get('schedule')!r} is no timetable of five fields")
    if manifest.cluster is None and not job.get("clusterSelector"):
        yield Finding("cluster-present", manifest.place, "has neither rayClusterSpec nor clusterSelector")


def _check_deadlines(manifest: Manifest, job: Mapping[str, Any]) -> Iterator[Finding]:
    if not job.get("activeDeadlineSeconds"):
        yield Finding("active-deadline", manifest.place, "set activeDeadlineSeconds: a job that hangs costs its nodes")
    if not job.get("preRunningDeadlineSeconds"):
        yield Finding(
            "pre-running-deadline",
            manifest.place,
            "set preRunningDeadlineSeconds: a pod without a node, or an image that is not there, waits for ever",
        )


def _check_deletion(manifest: Manifest, job: Mapping[str, Any]) -> Iterator[Finding]:
    """`deletion`: a rule of deletionRules matches SUCCEEDED, FAILED or Failed, and never a job that was stopped."""
    if manifest.cluster is None:
        return  # the cluster that clusterSelector names is not the job's to remove
    if not job.get("shutdownAfterJobFinishes"):
        yield Finding(
            "deletion", manifest.place, "may keep its cluster after its end; set shutdownAfterJobFinishes: true"
        )
    if job.get("deletionStrategy"):
        yield Finding(
            "deletion-one-way",
            manifest.place,
            "deletionStrategy keeps the cluster of a job that was stopped, and does not go with"
            " shutdownAfterJobFinishes; remove it",
        )


def _check_submission(manifest: Manifest, job: Mapping[str, Any]) -> Iterator[Finding]:
    mode = job.get("submissionMode", "K8sJobMode")
    if mode == "K8sJobMode" and not job.get("submitterPodTemplate"):
        yield Finding(
            "submission-mode",
            manifest.place,
            "its submitter pod has no security context, which a restricted namespace refuses; set HTTPMode",
        )
    if mode == "InteractiveMode":
        yield Finding("submission-mode", manifest.place, "InteractiveMode waits for somebody to type; set HTTPMode")
    if mode in ("HTTPMode", "SidecarMode") and (job.get("submitterPodTemplate") or job.get("submitterConfig")):
        yield Finding("submission-mode", manifest.place, f"{mode} has no submitter pod; remove its settings")


def _check_runtime(manifest: Manifest, job: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        runtime = yaml.safe_load(str(job.get("runtimeEnvYAML") or "{}"))
    except yaml.YAMLError:
        runtime = None
    if not isinstance(runtime, dict):
        yield Finding("runtime-env", manifest.place, "runtimeEnvYAML is not a YAML mapping")
        return
    for installer in ("pip", "uv", "conda"):
        if installer in runtime:
            yield Finding(
                "runtime-install", manifest.place, f"{installer} installs on every node at every start; build an image"
            )
    wait_s = str(at(runtime, "env_vars", "RAY_JOB_STOP_WAIT_TIME_S") or "3")
    if not wait_s.isdigit() or int(wait_s) < 30:
        yield Finding(
            "stop-time",
            manifest.place,
            f"a job that is stopped is killed after {wait_s} s, before its last checkpoint; set"
            " RAY_JOB_STOP_WAIT_TIME_S to 120 under env_vars of runtimeEnvYAML",
        )


def _check_entrypoint(
    manifest: Manifest, job: Mapping[str, Any], files: ConfigMaps, problem_of: CommandProblem
) -> Iterator[Finding]:
    entrypoint = str(job.get("entrypoint") or "")
    head = next(manifest.groups(), Group("", {}, is_head=True))
    retries = job.get("backoffLimit") or 0
    try:
        commands = [words[1:] for words in files.commands(head, entrypoint) if words[0] == "raypose"]
    except ValueError as error:
        yield Finding(
            "entrypoint",
            manifest.place,
            f"{entrypoint!r}, or a script that it starts, is no shell: {error}; look at its quotes and backslashes",
        )
        return
    if not commands:
        yield Finding("entrypoint", manifest.place, f"{entrypoint!r} calls no raypose command")
    for words in commands:
        problem = problem_of(words)
        if problem is not None:
            yield Finding("entrypoint", manifest.place, f"raypose {' '.join(words)}: {problem}")
        needed = _CONTINUES.get(words[0] if words else "")
        if needed and retries and not any(word.partition("=")[0] in needed for word in words):
            yield Finding(
                "retry-continues",
                manifest.place,
                f"a retry of 'raypose {words[0]}' would find its name taken; add {needed[0]}",
            )
    if not retries:
        yield Finding("retries", manifest.place, "backoffLimit is 0: the loss of the head ends the job for good")
