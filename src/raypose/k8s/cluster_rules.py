"""Rules for the Ray cluster of a job or service: versions, head, workers, GPUs, autoscaling, authentication."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from raypose.k8s.manifest import GPU, Finding, Group, Manifest, at, items, mapping, quantity

HEAD_MEMORY_BYTES = 5 * 2**30
"""Heads with less are killed for memory once a run has gone on for a while (kuberay#4287)."""
LEAST_GRACE_S = 60
_RAY_IN_TAG = re.compile(r"ray(\d+\.\d+\.\d+)")
_MAX_NAME = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 35}
"""What leaves room for the suffixes that the operator appends; a timetable's jobs have one of their own."""
_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def check_name(manifest: Manifest) -> Iterator[Finding]:
    """`name`: within the operator's limits, and there at all."""
    limit = _MAX_NAME.get(manifest.kind)
    if not manifest.name:
        yield Finding(
            "name", manifest.place, "has no name; generateName is not for Kustomize, --unique of 'k8s render' is"
        )
    elif limit is not None:
        if len(manifest.name) > limit:
            yield Finding("name", manifest.place, f"{len(manifest.name)} characters; the operator takes up to {limit}")
        if not _LABEL.fullmatch(manifest.name):
            yield Finding("name", manifest.place, "use lower case letters, digits and '-', a letter first")


def check_cluster(manifest: Manifest, ray_version: str) -> Iterator[Finding]:
    """Every rule of this file that holds for one cluster."""
    if manifest.cluster is None:
        return
    head, *workers = manifest.groups()
    yield from chain(
        check_versions(manifest, ray_version),
        check_authentication(manifest),
        check_head(head),
        check_autoscaler(manifest, head, workers),
        *(check_workers(group) for group in workers),
        *(check_gpus(group) for group in workers),
    )
    names = [str(group.spec.get("groupName", "")) for group in workers]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Finding("group-name", manifest.place, f"two groups of workers are called {name!r}; name them apart")
    if not workers:
        yield Finding("workers-present", manifest.place, "has no workers, and the head has no CPUs to offer")


def check_versions(manifest: Manifest, ray_version: str) -> Iterator[Finding]:
    """`ray-version` and `same-image`: nodes of two versions of Ray do not form a cluster."""
    cluster = mapping(manifest.cluster)
    given = cluster.get("rayVersion")
    if given != ray_version:
        yield Finding("ray-version", manifest.place, f"rayVersion is {given!r}, raypose is locked to {ray_version!r}")
    images = [str(group.ray_container.get("image", "")) for group in manifest.groups()]
    for image in sorted(set(images)):
        found = _RAY_IN_TAG.search(image.rpartition("/")[2])
        if found and found[1] != ray_version:
            yield Finding("ray-version", manifest.place, f"image {image} has Ray {found[1]}, raypose has {ray_version}")
    if len(set(images)) > 1:
        yield Finding("same-image", manifest.place, f"head and workers differ: {' and '.join(sorted(set(images)))}")


def check_authentication(manifest: Manifest) -> Iterator[Finding]:
    """`token-auth`: without it, whoever reaches the dashboard runs code in the cluster."""
    if at(manifest.cluster, "authOptions", "mode") != "token":
        yield Finding("token-auth", manifest.place, "set authOptions: {mode: token}")
    for group in manifest.groups():
        for name, entry in group.environment():
            if name == "RAY_AUTH_MODE" and entry.get("value") != "token":
                yield Finding("token-auth", group.place, "RAY_AUTH_MODE undoes authOptions; remove it")
    if at(manifest.cluster, "headGroupSpec", "serviceType") in ("NodePort", "LoadBalancer"):
        yield Finding("dashboard-private", manifest.place, "the head's service is open to the outside; use ClusterIP")


def check_head(head: Group) -> Iterator[Finding]:
    """`head-idle`, `head-memory`, `head-no-gpu`: the head keeps the cluster together and does nothing else."""
    cpus = head.start_parameters.get("num-cpus")
    if cpus != "0":
        yield Finding("head-idle", head.place, f'rayStartParams num-cpus is {cpus!r}; "0" keeps work off the head')
    if not head.limit("memory") >= HEAD_MEMORY_BYTES:
        yield Finding("head-memory", head.place, f"{head.limit('memory') / 2**30:.1f}Gi of memory; give 5Gi or more")
    if head.limit(GPU) > 0:
        yield Finding("head-no-gpu", head.place, "holds a GPU that nothing can use; remove it")


def check_workers(group: Group) -> Iterator[Finding]:
    """`requests-are-limits`, `replicas` and `grace-period`."""
    for resource in ("cpu", "memory"):
        limit, request = group.limit(resource), group.request(resource)
        if not limit > 0:
            yield Finding("resources-present", group.place, f"no limit of {resource}: Ray would count the whole node's")
        elif limit != request:
            yield Finding("requests-are-limits", group.place, f"{resource}: asks for less than Ray will hand out")
    for name in ("num-cpus", "num-gpus", "memory"):
        if name in group.start_parameters:
            yield Finding("resources-once", group.place, f"rayStartParams {name} repeats the limits; remove it")
    least, now, most = (int(group.spec.get(key, 0)) for key in ("minReplicas", "replicas", "maxReplicas"))
    if not least <= now <= most:
        yield Finding("replicas", group.place, f"replicas {now} lies outside {least} to {most}")
    if most < 1:
        yield Finding("replicas", group.place, "maxReplicas is 0: no worker would ever come")
    if int(group.pod.get("terminationGracePeriodSeconds") or 30) < LEAST_GRACE_S:
        yield Finding("grace-period", group.place, f"set terminationGracePeriodSeconds to {LEAST_GRACE_S} or more")


def check_gpus(group: Group) -> Iterator[Finding]:
    """`gpu-placement`, `gpu-whole` and `gpu-image`."""
    gpus = group.limit(GPU)
    if not gpus:
        return
    if gpus != int(gpus):
        yield Finding("gpu-whole", group.place, f"{gpus:g} GPUs; Kubernetes hands out whole ones")
    tolerations = items(group.pod.get("tolerations"))
    if not any(entry.get("key") == GPU or "key" not in entry for entry in tolerations):
        yield Finding("gpu-toleration", group.place, f"no toleration of {GPU}: tainted GPU nodes refuse it")
    if not group.pod.get("nodeSelector") and not at(group.pod, "affinity", "nodeAffinity"):
        yield Finding("gpu-node-selector", group.place, 'set a nodeSelector, such as nvidia.com/gpu.present: "true"')
    if str(group.ray_container.get("image", "")).endswith("-cpu"):
        yield Finding("gpu-image", group.place, "asks for a GPU with an image that has no CUDA; use the -cuda one")


def check_autoscaler(manifest: Manifest, head: Group, workers: list[Group]) -> Iterator[Finding]:
    """`autoscaler-…`: version 2, by the field made for it, and allowed to do its work."""
    cluster = mapping(manifest.cluster)
    options = mapping(cluster.get("autoscalerOptions"))
    names = {name for name, _ in head.environment()}
    if "RAY_enable_autoscaler_v2" in names:
        yield Finding("autoscaler-version", head.place, "use autoscalerOptions.version: v2, not the variable")
    if not cluster.get("enableInTreeAutoscaling"):
        if options:
            yield Finding("autoscaler-on", manifest.place, "autoscalerOptions without enableInTreeAutoscaling: true")
        return
    if options.get("version") != "v2":
        yield Finding("autoscaler-version", manifest.place, "set autoscalerOptions.version: v2")
    own = mapping(options.get("securityContext"))
    if own.get("allowPrivilegeEscalation") is not False or "ALL" not in (at(own, "capabilities", "drop") or ()):
        yield Finding("autoscaler-security", manifest.place, "its container needs a restricted securityContext, too")
    if quantity(at(options, "resources", "limits", "memory")) == 0:
        yield Finding("autoscaler-resources", manifest.place, "set autoscalerOptions.resources")
    if head.pod.get("automountServiceAccountToken") is False:
        yield Finding("autoscaler-token", head.place, "the autoscaler needs automountServiceAccountToken: true")
    for group in (head, *workers):
        if group.pod.get("restartPolicy", "Never") != "Never":
            yield Finding("autoscaler-restart", group.place, "restartPolicy has to be Never with autoscaler v2")
    if all(group.spec.get("minReplicas", 0) == group.spec.get("maxReplicas") for group in workers):
        yield Finding("autoscaler-range", manifest.place, "minReplicas equals maxReplicas: nothing to scale")
