"""`raypose k8s lint`: each rule meets a manifest that is good but for one thing."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from raypose import k8s
from raypose.cli.parsing import command_problem
from raypose.cli.root import app
from raypose.errors import ConfigError
from raypose.k8s.lint import lint
from raypose.k8s.manifest import Manifest, quantity, read_manifests
from raypose.k8s.mounted import shell_commands
from raypose.k8s.render import unique_name, with_unique_jobs

_problem = partial(command_problem, get_command(app))

BASE = Path(__file__).parents[2] / "k8s" / "base"
JOB, SERVICE, NAMESPACE, ROLE, CONFIG = "RayJob", "RayService", "Namespace", "Role", "ConfigMap"


def objects_of(folder: str) -> list[dict[str, Any]]:
    """Those of a folder, and the config map that its kustomization makes of the other files."""
    files = {path.name: path.read_text() for path in (BASE / folder).glob("*.yaml")}
    config = {"run.yaml", "sweep.yaml", "serve.yaml"} & set(files)
    generated = {
        "apiVersion": "v1", "kind": CONFIG, "metadata": {"name": f"raypose-{folder}", "namespace": "raypose"},
        "data": {name: files[name] for name in config},
    }  # fmt: skip
    written = [name for name in files if name not in {*config, "kustomization.yaml", "names.yaml"}]
    documents = [document for name in written for document in yaml.safe_load_all(files[name])]
    return [*documents, generated] if config else documents


GOOD = {folder: objects_of(folder) for folder in ("setup", "train", "serve")}


def rules_broken(objects: list[dict[str, Any]]) -> set[str]:
    return {finding.rule for finding in lint([Manifest(one) for one in objects], _problem)}


def test_the_manifests_of_raypose_break_no_rule() -> None:
    assert rules_broken([one for objects in GOOD.values() for one in objects]) == set()


def put(kind: str, path: str, value: Any) -> Callable[[], set[str]]:
    """The rules that break when a value of the object of this kind is set, or with `...` removed."""

    def run() -> set[str]:
        objects = copy.deepcopy([one for folder in GOOD.values() for one in folder])
        target: Any = next(one for one in objects if one["kind"] == kind)
        *keys, last = [int(key) if key.isdigit() else key.replace("~", "/") for key in path.split("/")]
        for key in keys:
            target = target[key] if isinstance(target, list) else target.setdefault(key, {})
        if value is ...:
            del target[last]
        elif last == "+":
            target.append(value)
        else:
            target[last] = value
        return rules_broken(objects)

    return run


CLUSTER = "spec/rayClusterSpec"
HEAD = f"{CLUSTER}/headGroupSpec"
WORKERS = f"{CLUSTER}/workerGroupSpecs/0"
HEAD_BOX = f"{HEAD}/template/spec/containers/0"
BOX = f"{WORKERS}/template/spec/containers/0"
POD = f"{WORKERS}/template/spec"
DELETION_RULES = [
    {"policy": "DeleteCluster", "condition": {"jobStatus": status, "ttlSeconds": 300}}
    for status in ("SUCCEEDED", "FAILED")
]
GPU_LIMITS = {"cpu": "4", "memory": "12Gi", "nvidia.com/gpu": "1"}

BROKEN = {
    # what runs
    "image-pinned": put(JOB, f"{BOX}/image", "registry.example.com/raypose"),
    "image-pinned latest": put(JOB, f"{BOX}/image", "registry.example.com/raypose:latest"),
    "image-pull": put(JOB, f"{BOX}/imagePullPolicy", "Always"),
    "ray-version": put(JOB, f"{CLUSTER}/rayVersion", "2.9.0"),
    "ray-version missing": put(JOB, f"{CLUSTER}/rayVersion", ...),
    "ray-version of the image": put(JOB, f"{BOX}/image", "registry.example.com/raypose:0.1.0-ray2.9.0-cpu"),
    "same-image": put(JOB, f"{BOX}/image", "registry.example.com/raypose:0.2.0-ray2.60.0-cpu"),
    "container-present": put(JOB, f"{WORKERS}/template/spec/containers", []),
    # who may do what
    "run-as-non-root": put(JOB, f"{POD}/securityContext/runAsNonRoot", ...),
    "run-as-non-root user": put(JOB, f"{POD}/securityContext/runAsUser", 0),
    "no-privilege-escalation": put(JOB, f"{BOX}/securityContext/allowPrivilegeEscalation", ...),
    "drop-capabilities": put(JOB, f"{BOX}/securityContext/capabilities", {"drop": ["NET_RAW"]}),
    "seccomp": put(JOB, f"{POD}/securityContext/seccompProfile", ...),
    "not-privileged": put(JOB, f"{BOX}/securityContext/privileged", True),
    "host-namespaces": put(JOB, f"{POD}/hostNetwork", True),
    "service-account": put(JOB, f"{POD}/serviceAccountName", ...),
    "secret-inline": put(JOB, f"{BOX}/env/+", {"name": "AWS_SECRET_ACCESS_KEY", "value": "wJalrXUt"}),
    "token-auth": put(JOB, f"{CLUSTER}/authOptions", ...),
    "token-auth undone": put(JOB, f"{HEAD_BOX}/env/+", {"name": "RAY_AUTH_MODE", "value": "disabled"}),
    "dashboard-private": put(JOB, f"{HEAD}/serviceType", "LoadBalancer"),
    "least-privilege": put(ROLE, "rules/0/verbs", ["*"]),
    "pod-security": put(NAMESPACE, "metadata/labels/pod-security.kubernetes.io~enforce", "baseline"),
    # what the operator does by itself
    "operator-probes": put(JOB, f"{BOX}/livenessProbe", {"exec": {"command": ["true"]}}),
    "operator-ports": put(JOB, f"{HEAD_BOX}/ports", [{"containerPort": 8080, "name": "metrics"}]),
    "operator-command": put(JOB, f"{BOX}/command", ["ray", "start"]),
    "operator-shm": put(JOB, f"{BOX}/volumeMounts/+", {"name": "cache", "mountPath": "/dev/shm"}),
    "operator-init": put(JOB, f"{POD}/initContainers", [{"name": "wait-gcs-ready", "image": "a:1"}]),
    "name": put(JOB, "metadata/name", "a" * 48),
    "name with capitals": put(JOB, "metadata/name", "Train"),
    "name generated": put(JOB, "metadata", {"generateName": "train-", "namespace": "raypose"}),
    "namespace": put(JOB, "metadata/namespace", ...),
    # head and workers
    "head-idle": put(JOB, f"{HEAD}/rayStartParams", {}),
    "head-idle as a number": put(JOB, f"{HEAD}/rayStartParams/num-cpus", 0),
    "head-memory": put(JOB, f"{HEAD_BOX}/resources/limits/memory", "4Gi"),
    "head-no-gpu": put(JOB, f"{HEAD_BOX}/resources/limits/nvidia.com~gpu", "1"),
    "requests-are-limits": put(JOB, f"{BOX}/resources/requests/memory", "2Gi"),
    "resources-present": put(JOB, f"{BOX}/resources/limits/cpu", ...),
    "resources-once": put(JOB, f"{WORKERS}/rayStartParams", {"num-cpus": "4"}),
    "replicas": put(JOB, f"{WORKERS}/replicas", 9),
    "grace-period": put(JOB, f"{POD}/terminationGracePeriodSeconds", ...),
    "workers-present": put(JOB, f"{CLUSTER}/workerGroupSpecs", []),
    "workers-fit": put(JOB, f"{BOX}/resources", {"limits": {"cpu": "2", "memory": "9Gi"}}),
    "gpu-toleration": put(JOB, f"{BOX}/resources", {"limits": GPU_LIMITS}),
    "gpu-node-selector": put(JOB, f"{BOX}/resources", {"limits": GPU_LIMITS}),
    "gpu-image": put(JOB, f"{BOX}/resources", {"limits": GPU_LIMITS}),
    "gpu-whole": put(JOB, f"{BOX}/resources", {"limits": {**GPU_LIMITS, "nvidia.com/gpu": "0.5"}}),
    "autoscaler-on": put(JOB, f"{CLUSTER}/autoscalerOptions", {"version": "v2"}),
    "autoscaler-version": put(JOB, f"{CLUSTER}/enableInTreeAutoscaling", True),
    "autoscaler-security": put(JOB, f"{CLUSTER}/enableInTreeAutoscaling", True),
    "autoscaler-resources": put(JOB, f"{CLUSTER}/enableInTreeAutoscaling", True),
    "autoscaler-token": put(JOB, f"{CLUSTER}/enableInTreeAutoscaling", True),
    "autoscaler-range": put(JOB, f"{CLUSTER}/enableInTreeAutoscaling", True),
    # volumes
    "volume-known": put(JOB, f"{BOX}/volumeMounts/+", {"name": "nowhere", "mountPath": "/nowhere"}),
    "volume-bounded": put(JOB, f"{POD}/volumes/1/emptyDir", {}),
    "host-path": put(JOB, f"{POD}/volumes/1", {"name": "cache", "hostPath": {"path": "/tmp"}}),
    "cache-fits": put(JOB, f"{POD}/volumes/1/emptyDir/sizeLimit", "10Gi"),
    "cache-volume": put(JOB, f"{BOX}/env", []),
    # the life of a job
    "active-deadline": put(JOB, "spec/activeDeadlineSeconds", ...),
    "pre-running-deadline": put(JOB, "spec/preRunningDeadlineSeconds", ...),
    "deletion": put(JOB, "spec/shutdownAfterJobFinishes", ...),
    "deletion-one-way": put(JOB, "spec/deletionStrategy", {"deletionRules": DELETION_RULES}),
    "submission-mode": put(JOB, "spec/submissionMode", ...),
    "submission-mode interactive": put(JOB, "spec/submissionMode", "InteractiveMode"),
    "runtime-env": put(JOB, "spec/runtimeEnvYAML", "- a list"),
    "runtime-install": put(JOB, "spec/runtimeEnvYAML", "pip: [torch]"),
    "stop-time": put(JOB, "spec/runtimeEnvYAML", ...),
    "retries": put(JOB, "spec/backoffLimit", ...),
    "retry-continues": put(JOB, "spec/entrypoint", "raypose train /etc/raypose/run.yaml"),
    "entrypoint": put(JOB, "spec/entrypoint", "python train.py"),
    "entrypoint without its last quote": put(JOB, "spec/entrypoint", "raypose train '/etc/raypose/run.yaml --continue"),
    "entrypoint unknown command": put(JOB, "spec/entrypoint", "raypose trian /etc/raypose/run.yaml --continue"),
    "entrypoint unknown option": put(JOB, "spec/entrypoint", "raypose train /etc/raypose/run.yaml --continue --fast"),
    "config-file": put(JOB, "spec/entrypoint", "raypose train /etc/raypose/other.yaml --continue"),
    "cluster-present": put(JOB, CLUSTER, ...),
    "feature-gate": put(JOB, f"{CLUSTER}/networkPolicy", {"mode": "DenyAllIngress"}),
    # a service
    "serve-config": put(SERVICE, "spec/serveConfigV2", "applications: {}"),
    "import-path": put(
        SERVICE,
        "spec/serveConfigV2",
        "applications: [{name: pose, route_prefix: /, import_path: 'raypose.serve.app:made'}]",
    ),
    "serve-args": put(
        SERVICE,
        "spec/serveConfigV2",
        "applications: [{name: pose, route_prefix: /, import_path: 'raypose.serve.app:build', args: {modell: a}}]",
    ),
    "upgrade": put(SERVICE, "spec/upgradeStrategy", {"type": "Recreate"}),
    "drain": put(SERVICE, "spec/rayClusterDeletionDelaySeconds", ...),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_manifest_with_one_thing_wrong_breaks_the_rule_of_that_name(case: str) -> None:
    assert case.partition(" ")[0] in BROKEN[case]()


DATA = "data: {train: s3://poses/train, val: s3://poses/val}"
RUN_FILES = {
    "run-config": f"{DATA}\ntrain: {{epochs: many}}\n",
    "durable-place": f"{DATA}\nstorage: runs\n",
    "gpu-present": f"{DATA}\nstorage: s3://poses/runs\nscaling: {{device: cuda}}\n",
    "metrics-host": f"{DATA}\nstorage: s3://poses/runs\ntelemetry: {{prometheus_port: 9400}}\n",
}


@pytest.mark.parametrize("rule", RUN_FILES)
def test_the_run_file_in_the_config_map_is_checked_too(rule: str) -> None:
    assert rule in put(CONFIG, "data/run.yaml", RUN_FILES[rule])()


def change(job: dict[str, Any], path: str, value: Any) -> None:
    *keys, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    target: Any = job
    for key in keys:
        target = target[key]
    target[last] = value


def test_rules_that_need_two_things_together() -> None:
    job, *others = copy.deepcopy(GOOD["train"])
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"] *= 2
    assert rules_broken([job, *others]) == {"group-name"}

    scaled, *others = copy.deepcopy(GOOD["train"])
    change(scaled, f"{CLUSTER}/enableInTreeAutoscaling", True)
    change(scaled, f"{POD}/restartPolicy", "Always")
    assert "autoscaler-restart" in rules_broken([scaled, *others])

    weekly = {**scaled, "kind": "RayCronJob", "spec": {"schedule": "weekly", "jobTemplate": job["spec"]}}
    assert {"schedule", "feature-gate"} <= rules_broken([weekly, *others])

    job, *others = copy.deepcopy(GOOD["train"])
    del job["spec"]["shutdownAfterJobFinishes"]
    job["spec"]["deletionStrategy"] = {"deletionRules": DELETION_RULES}
    assert rules_broken([job, *others]) == {"deletion", "deletion-one-way"}  # nothing for a job that was stopped


def sweep_rules(sweep: tuple[str, str] = ("", ""), base: tuple[str, str] = ("", "")) -> set[str]:
    """The rules that break when a text of the sweep's file, or of its base, is another."""
    job, config = objects_of("tune")
    for name, (old, new) in (("sweep.yaml", sweep), ("run.yaml", base)):
        assert old in config["data"][name]
        config["data"][name] = config["data"][name].replace(old, new)
    return rules_broken([job, config])


SPACE = "train.lr0: {loguniform: [0.0003, 0.03]}"
LOCAL = ("train: s3://poses/sets/train", "train: sets/train")
BROKEN_SWEEPS: dict[str, dict[str, tuple[str, str]]] = {
    "value": {"sweep": ("trials: 16", "trials: none")},
    "YAML": {"sweep": ("trials: 16}", "trials: 16")},
    "key of the space": {"sweep": (SPACE, "train.poze: {uniform: [0.1, 0.2]}")},
    "value of the space": {"sweep": (SPACE, "train.lr0: {uniform: [-1.0, 0.1]}")},
    "key of the base": {"base": ("epochs: 27", "epoch: 27")},
    "port of the base": {"base": ("data:", "telemetry: {prometheus_port: 9400, prometheus_host: 0.0.0.0}\ndata:")},
}


@pytest.mark.parametrize("what", BROKEN_SWEEPS)
def test_a_sweep_that_tune_would_refuse_is_refused(what: str) -> None:
    assert sweep_rules(**BROKEN_SWEEPS[what]) == {"sweep-config"}


def test_a_sweep_that_tune_takes_keeps_every_rule() -> None:
    assert sweep_rules(sweep=(SPACE, "train.lr0: {loguniform: [3e-4, 3e-2]}")) == set()
    assert sweep_rules(sweep=("base: run.yaml", "base: /etc/raypose/run.yaml")) == set()


def test_where_a_sweep_reads_and_writes_is_what_its_overrides_leave() -> None:
    remote = ("\nmode: max", "\nmode: max\noverrides: {data.train: s3://poses/sets/train}")
    assert sweep_rules(base=LOCAL) == {"durable-place"}
    assert sweep_rules(sweep=remote, base=LOCAL) == set()
    assert sweep_rules(sweep=(remote[0], "\nmode: max\noverrides: {data.train: sets/train}")) == {"durable-place"}
    assert sweep_rules(base=("storage: s3://poses/runs", "storage: runs")) == set()  # trials write to the sweep's


def test_what_is_wrong_with_a_mounted_file_is_told_by_its_path_in_the_pod() -> None:
    job, config = objects_of("tune")
    config["data"]["sweep.yaml"] = config["data"]["sweep.yaml"].replace("trials: 16", "trials: none")
    (problem,) = lint([Manifest(one) for one in (job, config)], _problem)
    assert re.fullmatch(r"/etc/raypose/sweep\.yaml:\d+: budget\.trials: must be .*, found 'none'", problem.problem)


def test_settings_of_the_entry_point_are_laid_over_the_run_file() -> None:
    command = "raypose train /etc/raypose/run.yaml --continue"
    assert put(JOB, "spec/entrypoint", f"{command} data.train=sets/train")() == {"durable-place"}
    assert put(JOB, "spec/entrypoint", f"{command} train.epoch=7")() == {"run-config"}
    assert put(JOB, "spec/entrypoint", f'{command} "name=pose-$(date +%G)"')() == set()


def test_the_mounted_file_of_a_service_is_read_as_the_service_reads_it() -> None:
    def rules(line: str) -> set[str]:
        objects = copy.deepcopy(GOOD["serve"])
        config = next(one for one in objects if one["kind"] == CONFIG)
        config["data"]["serve.yaml"] = f"model: s3://poses/runs/pose\n{line}\n"
        return rules_broken(objects)

    assert rules("replicas: {target_requests: 1e1}") == set()
    assert rules("replicas: {target_requests: 10.0") == {"serve-args"}
    assert rules("modell: a") == {"serve-args"}


def test_every_rule_is_met_by_a_test_and_by_the_guide() -> None:
    package, guide = Path(k8s.__file__).parent, BASE.parents[1] / "docs" / "kubernetes.md"
    names = {
        name for path in package.glob("*.py") for name in re.findall(r'Finding\(\s*"([a-z0-9-]+)"', path.read_text())
    }
    here, told = Path(__file__).read_text(), guide.read_text()
    assert {name for name in names if f'"{name}"' not in here} == set()
    assert {name for name in names if name not in told and f"-{name.partition('-')[2]}`" not in told} == set()
    assert len(BROKEN) >= 30


def test_a_secret_with_keys_in_it_is_refused_and_the_example_is_not() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3", "namespace": "raypose"}}
    assert rules_broken([{**secret, "stringData": {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE"}}]) == {"secret-inline"}
    assert rules_broken([{**secret, "stringData": {"AWS_ACCESS_KEY_ID": "REPLACE_ME"}}]) == set()


def test_scripts_are_read_as_the_commands_they_run() -> None:
    script = 'set -eu\nif [ ! -e x ]; then\n  raypose data build a b && raypose val "c d"  # once\nfi\n'
    assert ["raypose", "data", "build", "a", "b"] in list(shell_commands(script))
    assert ["raypose", "val", "c d"] in list(shell_commands(script))


def test_a_command_goes_on_after_a_backslash_and_within_quotes_and_ends_with_its_line() -> None:
    script = 'raypose train a.yaml \\\n  --continue "" # once\n# or \\\nraypose val "c\nd"\nraypose runs list\n'
    assert list(shell_commands(script)) == [
        ["raypose", "train", "a.yaml", "--continue", ""],
        ["raypose", "val", "c\nd"],
        ["raypose", "runs", "list"],
    ]


def test_a_script_that_is_no_shell_is_one_finding() -> None:
    job, *others, config = copy.deepcopy(GOOD["train"])
    job["spec"]["entrypoint"] = "bash /etc/raypose/go.sh"
    config["data"]["go.sh"] = "raypose train /etc/raypose/run.yaml \\\n  --continue\n"
    assert rules_broken([job, *others, config]) == set()
    config["data"]["go.sh"] += "echo 'done\n"
    assert rules_broken([job, *others, config]) == {"entrypoint"}


def test_what_is_no_manifest_is_said_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml:2: not valid YAML"):
        read_manifests("a: b\n\tc: d\n", "x.yaml")
    with pytest.raises(ConfigError, match="expected objects of Kubernetes with a kind"):
        read_manifests("train: {epochs: 2}\n", "x.yaml")


@pytest.mark.parametrize(
    ("text", "number"), [("500m", 0.5), ("6Gi", 6 * 2**30), ("4", 4), (2, 2), ("1.5G", 1.5e9), (None, 0)]
)
def test_quantities_are_those_of_kubernetes(text: Any, number: float) -> None:
    assert quantity(text) == number


@given(st.from_regex(r"\A[a-z]([-a-z0-9]{0,60}[a-z0-9])?\Z"), st.datetimes())
def test_a_unique_name_is_within_the_operators_limit_and_still_a_label(name: str, now: datetime) -> None:
    unique = unique_name(name, now)
    assert len(unique) <= 47
    assert unique[0].isalpha()
    assert not set(unique) - set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_rendering_names_jobs_anew_and_nothing_else() -> None:
    manifests = [Manifest(one) for one in GOOD["train"]]
    renamed = with_unique_jobs(manifests, datetime(2026, 11, 24, 21, 5, 9))
    assert [one.name for one in renamed] == ["raypose-train-1124-210509", "raypose-train"]
    assert [one.name for one in manifests] == ["raypose-train", "raypose-train"]
