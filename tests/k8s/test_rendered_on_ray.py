"""What the operator would send to a cluster, as rendered, sent to a local Ray: entry points and the service."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from raypose.config import dump_config
from raypose.k8s.manifest import Manifest
from raypose.k8s.render import build
from raypose.launch import local_nodes
from raypose.launch.local_nodes import LocalCluster
from raypose.serve.client import Client
from raypose.storage import ObjectStore, open_store
from tests.data_sets import build_synthetic, tiny_run
from tests.ports import free_port
from tests.s3.servers import Moto, make_bucket, s3_environment
from tests.served_run import jpeg
from tests.tune.sweep_files import tiny_sweep

ROOT = Path(__file__).parents[2]
MOUNTED = "/etc/raypose"

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(500),
    pytest.mark.skipif(not (shutil.which("kubectl") or shutil.which("kustomize")), reason="no kubectl or kustomize"),
]


@pytest.fixture(scope="module")
def poses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """The bucket that the manifests name, with the sets that they name."""
    data = build_synthetic(tmp_path_factory.mktemp("data"))
    server = Moto(free_port())
    with s3_environment(server.endpoint):
        make_bucket(server.endpoint, "poses")
        store = open_store("s3://poses")
        for path in sorted(data.rglob("*.*")):
            store.upload(path, f"sets/{path.relative_to(data).as_posix()}")
        yield store
    server.kill()


@dataclass(frozen=True)
class Head:
    """The dashboard of a cluster, asked as the operator asks it."""

    cluster: LocalCluster

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.cluster.dashboard}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.cluster.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def run(self, job: Manifest, entrypoint: str) -> str:
        """Start a RayJob in HTTPMode, wait for its end, which has to be a good one, and return its log."""
        body = {"entrypoint": entrypoint, "runtime_env": yaml.safe_load(job.spec["runtimeEnvYAML"])}
        name = self.call("POST", "/api/jobs/", body)["submission_id"]
        while (details := self.call("GET", f"/api/jobs/{name}"))["status"] in ("PENDING", "RUNNING"):
            time.sleep(0.5)
        log = str(self.call("GET", f"/api/jobs/{name}/logs")["logs"])
        assert details["status"] == "SUCCEEDED", log
        return log


@pytest.fixture(scope="module")
def head(poses: ObjectStore) -> Iterator[Head]:
    """As many logical CPUs as two replicas of the service ask for."""
    folder = Path(tempfile.mkdtemp(prefix="rp-"))  # short: Ray's sockets lie below it
    yield Head(local_nodes.up(folder, nodes=1, cpus=8))
    local_nodes.down(folder)
    shutil.rmtree(folder)


def rendered(overlay: str, folder: Path, replaced: Mapping[str, str], **files: str) -> tuple[Manifest, str]:
    """The RayJob or RayService of a folder of k8s/, with files of its config map replaced as a user would; the config
    map as the pod would have it mounted, in `folder`, and the texts `replaced` by those of this machine."""
    shutil.copytree(ROOT / "k8s", folder / "k8s")
    for name, text in files.items():
        (folder / "k8s" / overlay / f"{name}.yaml").write_text(text)
    manifests = build(str(folder / "k8s" / overlay))
    one = next(one for one in manifests if one.kind in ("RayJob", "RayService"))
    mounted = folder / "mounted"
    mounted.mkdir()
    here = {MOUNTED: str(mounted), **replaced}
    for name, text in next(one.content["data"] for one in manifests if one.kind == "ConfigMap").items():
        (mounted / name).write_text(localized(text, here))
    return one, localized(one.spec.get("entrypoint") or one.spec["serveConfigV2"], here)


def localized(text: str, here: Mapping[str, str]) -> str:
    for there, place in here.items():
        text = text.replace(there, place)
    return text


def bucket_run(folder: Path, *overrides: str) -> str:
    sets = ["data.train=s3://poses/sets/train", "data.val=s3://poses/sets/val", f"data.cache_dir={folder}/cache"]
    return dump_config(tiny_run(Path("unused"), Path("unused"), *sets, "storage=s3://poses/runs", *overrides))


def test_the_entry_point_of_the_training_job_trains_and_does_so_once(
    head: Head, poses: ObjectStore, tmp_path: Path
) -> None:
    job, entrypoint = rendered("base/train", tmp_path, {}, run=bucket_run(tmp_path, "name=pose", "scaling.workers=2"))
    assert entrypoint == f"raypose train {tmp_path}/mounted/run.yaml --continue"
    head.run(job, entrypoint)
    assert json.loads(poses.read("runs/pose/summary.json"))["status"] == "completed"
    written = {entry.key for entry in poses.list("runs/pose/checkpoints/")}
    head.run(job, entrypoint)  # as after a retry of the operator
    assert {entry.key for entry in poses.list("runs/pose/checkpoints/")} == written


def test_the_service_of_the_manifest_serves_what_the_job_has_trained(head: Head, tmp_path: Path) -> None:
    _, text = rendered("base/serve", tmp_path, {})
    port = free_port()
    config = {**yaml.safe_load(text), "http_options": {"host": "127.0.0.1", "port": port}}
    head.call("PUT", "/api/serve/applications/", config)
    deadline_s = time.monotonic() + 240
    while (found := head.call("GET", "/api/serve/applications/")["applications"]["pose"])["status"] != "RUNNING":
        assert time.monotonic() < deadline_s and found["status"] == "DEPLOYING", found
        time.sleep(1)
    assert len(found["deployments"]["pose"]["replicas"]) == 2
    with Client(f"http://127.0.0.1:{port}") as client:
        assert client.predict(jpeg()).images[0].error is None
        assert "s3://poses/runs/pose" in json.dumps(client.models())
    head.call("DELETE", "/api/serve/applications/")


def test_the_entry_point_of_the_sweep_tunes(head: Head, poses: ObjectStore, tmp_path: Path) -> None:
    sets = ["data.train=s3://poses/sets/train", "data.val=s3://poses/sets/val", f"data.cache_dir={tmp_path}/cache"]
    sweep = tiny_sweep(
        tmp_path, Path("unused"), "s3://poses/sweeps", *sets, "train.epochs=1", base="run.yaml", budget={"trials": 2}
    )
    base = (tmp_path / "base.yaml").read_text()
    job, entrypoint = rendered("base/tune", tmp_path, {}, run=base, sweep=sweep.read_text())
    assert entrypoint == f"raypose tune {tmp_path}/mounted/sweep.yaml --continue"
    head.run(job, entrypoint)
    assert len([entry for entry in poses.list("sweeps/sweep/") if entry.key.endswith("weights/best.pt")]) == 2


def test_the_smoke_job_draws_trains_and_validates_as_it_is_committed(head: Head, tmp_path: Path) -> None:
    here = {"/data/": f"{tmp_path}/data/", "0.0.0.0": "127.0.0.1", "9400": "0"}  # nobody else's port
    job, entrypoint = rendered("overlays/cpu-smoke", tmp_path, here)
    assert entrypoint == f"bash {tmp_path}/mounted/smoke.sh"
    head.run(job, entrypoint)
    assert json.loads((tmp_path / "data/runs/smoke/summary.json").read_text())["status"] == "completed"
