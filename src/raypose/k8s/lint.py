"""All rules over all objects of a rendering."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from raypose.k8s.cluster_rules import check_cluster, check_name
from raypose.k8s.file_rules import check_files
from raypose.k8s.job_rules import CommandProblem, check_job
from raypose.k8s.manifest import Finding, Manifest
from raypose.k8s.mounted import ConfigMaps
from raypose.k8s.namespace_rules import check_surroundings
from raypose.k8s.pod_rules import check_pods
from raypose.k8s.service_rules import check_service


def lint(manifests: Sequence[Manifest], problem_of: CommandProblem) -> list[Finding]:
    """What is wrong with these objects beyond what their schemas say; each finding once.

    Schemas are the API server's to check: `kubectl apply --dry-run=server`.
    """
    files = ConfigMaps.of(manifests)
    ray_version = metadata.version("ray")
    found = list(check_surroundings(manifests))
    for manifest in manifests:
        found += check_name(manifest)
        found += check_pods(manifest)
        found += check_cluster(manifest, ray_version)
        found += check_job(manifest, files, problem_of)
        found += check_files(manifest, files)
        found += check_service(manifest, files)
    return list(dict.fromkeys(found))
