"""Rules for what stands around clusters: namespaces, secrets, and what the operator has to be told to allow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raypose.k8s.manifest import Finding, Manifest, at, mapping

GATES_ANNOTATION = "raypose/feature-gates"
_CLUSTER_WIDE = {"Namespace", "ClusterRole", "ClusterRoleBinding", "ResourceFlavor", "ClusterQueue", "StorageClass"}
_PLACEHOLDER = "REPLACE_ME"


def check_surroundings(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """Every rule of this file."""
    for one in manifests:
        if one.kind == "Namespace":
            labels = mapping(at(one.content, "metadata", "labels"))
            if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
                yield Finding("pod-security", one.place, "label it pod-security.kubernetes.io/enforce: restricted")
        elif one.kind not in _CLUSTER_WIDE and not one.namespace:
            yield Finding("namespace", one.place, "has no namespace: it goes wherever kubectl happens to stand")
        if one.kind == "Secret":
            yield from _check_secret(one)
        if one.kind in ("Role", "ClusterRole"):
            yield from _check_role(one)
        yield from _check_gates(one)
    namespaces = sorted({one.namespace for one in manifests if one.cluster is not None and one.namespace})
    if len(namespaces) > 1:
        yield Finding("namespace", "all", f"clusters in {' and '.join(namespaces)}; config maps do not reach across")


def _check_secret(secret: Manifest) -> Iterator[Finding]:
    values = {**mapping(secret.content.get("stringData")), **mapping(secret.content.get("data"))}
    if any(_PLACEHOLDER not in str(value) and "KEY" in name for name, value in values.items()):
        yield Finding("secret-inline", secret.place, "holds keys; make it with kubectl or a secret store instead")


def _check_role(role: Manifest) -> Iterator[Finding]:
    for rule in role.content.get("rules") or ():
        for key in ("verbs", "resources", "apiGroups"):
            if "*" in (mapping(rule).get(key) or ()):
                yield Finding("least-privilege", role.place, f"{key} '*' allows whatever comes later; list them")


def _check_gates(manifest: Manifest) -> Iterator[Finding]:
    """`feature-gate`: what this operator ignores or refuses unless it is started with a gate open, is said aloud."""
    cluster = mapping(manifest.cluster)
    needed = {
        "RayCronJob": manifest.kind == "RayCronJob",
        "RayClusterNetworkPolicy": "networkPolicy" in cluster,
        "RayClusterMTLS": bool(at(cluster, "tlsOptions", "enabled")),
        "GCSFaultToleranceEmbeddedStorage": at(cluster, "gcsFaultToleranceOptions", "backend") == "rocksdb",
        "RayClusterHistoryServer": "historyServerOptions" in cluster,
    }
    said = str(manifest.annotations.get(GATES_ANNOTATION, "")).replace(" ", "").split(",")
    for gate in (gate for gate, is_needed in needed.items() if is_needed and gate not in said):
        yield Finding(
            "feature-gate",
            manifest.place,
            f"the operator must open {gate}; annotate {GATES_ANNOTATION}: {gate}",
        )
