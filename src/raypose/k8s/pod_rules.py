"""Rules for every pod of a Ray cluster: what it runs as, what it mounts, and what the operator adds by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

from raypose.k8s.manifest import Finding, Group, Manifest, at, items, mapping, quantity

_SECRET_WORDS = re.compile(r"SECRET|PASSWORD|TOKEN|ACCESS_KEY|API_KEY|CREDENTIAL")
_OPERATOR_PORTS = {8080: "metrics", 8265: "dashboard", 10001: "client", 6379: "gcs", 8000: "serve"}
_OPERATOR_INITS = {"wait-gcs-ready"}
_CONFIG_VOLUMES = (
    "configMap",
    "secret",
    "projected",
    "downwardAPI",
    "emptyDir",
    "persistentVolumeClaim",
    "csi",
    "ephemeral",
)


def check_pods(manifest: Manifest) -> Iterator[Finding]:
    """Every rule of this file, for every group of pods."""
    for group in manifest.groups():
        if not group.containers:
            yield Finding("container-present", group.place, "has no container; the first one is where Ray runs")
            continue
        yield from check_images(group)
        yield from check_security(group)
        yield from check_secrets(group)
        yield from check_operator_parts(group)
        yield from check_volumes(group)


def check_images(group: Group) -> Iterator[Finding]:
    """`image-pinned`: the same manifest starts the same program next month."""
    for container in group.all_containers:
        image = str(container.get("image", ""))
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in image and tag in ("", "latest"):
            yield Finding(
                "image-pinned", group.place, f"image {image!r} may be another one tomorrow; give a version or a digest"
            )
        if container.get("imagePullPolicy") == "Always":
            yield Finding(
                "image-pull", group.place, "imagePullPolicy Always asks the registry at each restart; leave it out"
            )


def check_security(group: Group) -> Iterator[Finding]:
    """Pod Security's `restricted`, said before the API server does."""
    pod = mapping(group.pod.get("securityContext"))
    for flag in ("hostNetwork", "hostPID", "hostIPC"):
        if group.pod.get(flag):
            yield Finding("host-namespaces", group.place, f"{flag} gives the pod its node's; remove it")
    for container in group.all_containers:
        own = mapping(container.get("securityContext"))
        if not own.get("runAsNonRoot", pod.get("runAsNonRoot")):
            yield Finding("run-as-non-root", group.place, "may run as root; set securityContext.runAsNonRoot: true")
        if own.get("runAsUser", pod.get("runAsUser")) == 0:
            yield Finding("run-as-non-root", group.place, "runAsUser 0 is root; use 1000, as the image does")
        if own.get("privileged"):
            yield Finding("not-privileged", group.place, "privileged containers own their node; remove it")
        if own.get("allowPrivilegeEscalation") is not False:
            yield Finding("no-privilege-escalation", group.place, "set securityContext.allowPrivilegeEscalation: false")
        if "ALL" not in (at(own, "capabilities", "drop") or ()):
            yield Finding("drop-capabilities", group.place, "set securityContext.capabilities: {drop: [ALL]}")
        profile = at(own, "seccompProfile", "type") or at(pod, "seccompProfile", "type")
        if profile not in ("RuntimeDefault", "Localhost"):
            yield Finding("seccomp", group.place, "set securityContext.seccompProfile: {type: RuntimeDefault}")
    if str(group.pod.get("serviceAccountName") or "default") == "default":
        yield Finding("service-account", group.place, "shares the account 'default'; name one of its own")


def check_secrets(group: Group) -> Iterator[Finding]:
    """`secret-inline`: what is in a manifest is in Git, in etcd and in every `kubectl describe`."""
    for name, entry in group.environment():
        if _SECRET_WORDS.search(name) and entry.get("value"):
            yield Finding("secret-inline", group.place, f"{name} stands in the manifest; use valueFrom.secretKeyRef")


def check_operator_parts(group: Group) -> Iterator[Finding]:
    """What KubeRay adds, and does not add, or not correctly, once there is one of the user's own."""
    container = group.ray_container
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if probe in container:
            yield Finding("operator-probes", group.place, f"the operator makes a {probe} that knows Ray; remove yours")
    if container.get("ports"):
        numbers = [port.get("containerPort") for port in items(container["ports"])]
        known = [f"{number} ({_OPERATOR_PORTS[number]})" for number in numbers if number in _OPERATOR_PORTS]
        yield Finding(
            "operator-ports",
            group.place,
            f"ports {', '.join(known) or numbers}: the operator opens Ray's ports if the list is not there; remove it",
        )
    for part in ("command", "args"):
        if container.get(part):
            yield Finding("operator-command", group.place, f"{part}: the operator starts Ray; use rayStartParams")
    for mount in items(container.get("volumeMounts")):
        if mount.get("mountPath") == "/dev/shm":
            yield Finding("operator-shm", group.place, "the operator mounts /dev/shm by the memory limit; remove yours")
    for init in items(group.pod.get("initContainers")):
        if init.get("name") in _OPERATOR_INITS:
            yield Finding("operator-init", group.place, f"the operator adds {init['name']}; remove yours")


def check_volumes(group: Group) -> Iterator[Finding]:
    """`volume-known`, `volume-bounded` and `host-path`."""
    volumes = {str(volume.get("name")): volume for volume in items(group.pod.get("volumes"))}
    for container in group.all_containers:
        for mount in items(container.get("volumeMounts")):
            if mount.get("name") not in volumes:
                yield Finding("volume-known", group.place, f"mounts {mount.get('name')!r}, no volume of the pod")
    for name, volume in volumes.items():
        if "hostPath" in volume:
            yield Finding("host-path", group.place, f"volume {name!r} is a folder of the node; use emptyDir or a claim")
        elif not any(kind in volume for kind in _CONFIG_VOLUMES):
            yield Finding("volume-known", group.place, f"volume {name!r} has no source, or one that pods may not use")
        if "emptyDir" in volume and not quantity(at(volume, "emptyDir", "sizeLimit")) > 0:
            yield Finding(
                "volume-bounded", group.place, f"volume {name!r} can fill its node's disk; set emptyDir.sizeLimit"
            )
