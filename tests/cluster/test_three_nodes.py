"""Three nodes with a token, data and results in a bucket of Ceph: each kind of job, and the loss of the head."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from raypose.config import dump_config
from raypose.data.synth import synthesize
from raypose.launch import local_nodes
from raypose.launch.local_nodes import LocalCluster
from raypose.storage import ObjectStore, open_store
from tests.commands import RAYPOSE, newest_step
from tests.data_sets import build_synthetic, tiny_run
from tests.s3.servers import CEPH_PACKAGES, ceph_gateway, make_bucket, missing_ceph_programs, s3_environment
from tests.tune.sweep_files import tiny_sweep

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

BUCKET = "s3://people"
PHOTOS = 40
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """Shard sets `train` and `val` and a folder of images `photos`; the environment says where."""
    if missing := missing_ceph_programs():
        pytest.skip(f"no Ceph here ({', '.join(missing)} not found); apt-get install {CEPH_PACKAGES}")
    folder = tmp_path_factory.mktemp("bucket")
    data = build_synthetic(folder / "data")
    with (
        s3_environment(),  # first: the gateway makes a user with the keys that it finds there
        ceph_gateway(folder / "rgw") as gateway,
        s3_environment(gateway.endpoint),
    ):
        make_bucket(gateway.endpoint, "people")
        store = open_store(BUCKET)
        for path in sorted(data.rglob("*.*")):
            store.upload(path, path.relative_to(data).as_posix())
        for number, sample in enumerate(synthesize(PHOTOS, seed=5, size_px=96)):
            store.write(f"photos/{number:03}.jpg", sample.image)
        yield store


class Nodes:
    """`raypose cluster up --nodes 3`, and `raypose cluster down`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def up(self) -> None:
        run([*RAYPOSE, "cluster", "up", "--nodes", "3", "--cpus", "1", "--folder", str(self._folder)], dict(os.environ))

    def down(self) -> None:
        run([*RAYPOSE, "cluster", "down", "--folder", str(self._folder)], dict(os.environ))

    def found(self) -> LocalCluster:
        return local_nodes.load(self._folder)

    def environment(self, **others: str) -> dict[str, str]:
        """What a client has to have set."""
        return {**os.environ, **self.found().environment, **others}

    def kill_head(self) -> None:
        """At once, with everything that runs on it, as when its machine goes."""
        head = psutil.Process(self.found().nodes[0].pid)
        family = [head, *head.children(recursive=True)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family, timeout=30)


@pytest.fixture(scope="module")
def nodes(bucket: ObjectStore) -> Iterator[Nodes]:
    folder = Path(tempfile.mkdtemp(prefix="rp-"))  # short: Ray's sockets lie below it
    nodes = Nodes(folder)
    nodes.up()
    yield nodes
    nodes.down()
    shutil.rmtree(folder)


def run(command: list[str], environment: dict[str, str], folder: Path | None = None) -> str:
    """What the command says, which has to end well."""
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def summary_of(bucket: ObjectStore, run: str) -> dict[str, object]:
    return dict(json.loads(bucket.read(f"{run}/summary.json")))


def run_file(folder: Path, *overrides: str) -> None:
    """`run.yaml`, from the bucket into it."""
    config = tiny_run(
        Path("unused"), Path("unused"), f"data.train={BUCKET}/train", f"data.val={BUCKET}/val",
        f"storage={BUCKET}/runs", "train.imgsz=32",
        f"data.cache_dir={folder}/cache",
        *overrides,
    )  # fmt: skip
    (folder / "run.yaml").write_text(dump_config(config))


def wait_until(seconds: float, what: str, is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline_s, f"after {seconds} s: {what}"
        time.sleep(0.5)


def test_ray_job_submit_trains_on_all_nodes_from_the_bucket_into_it(
    nodes: Nodes, bucket: ObjectStore, tmp_path: Path
) -> None:
    # No two workers fit on one node.
    three = ["scaling.workers=3", "scaling.cpus_per_worker=1", "scaling.virtual_workers=3"]
    run_file(tmp_path, *three, "train.batch=6", "train.nbs=6", "train.epochs=1")
    said = run(
        [*RAY, "job", "submit", "--working-dir", str(tmp_path), "--", "raypose", "train", "run.yaml"],
        nodes.environment(),
    )
    assert "3 x cpu" in said
    summary = summary_of(bucket, "runs/tiny")
    assert (summary["status"], summary["steps"]) == ("completed", 8)
    assert bucket.exists("runs/tiny/weights/best.pt")


def test_a_wrong_token_is_refused_to_both(nodes: Nodes, bucket: ObjectStore, tmp_path: Path) -> None:
    wrong = nodes.environment(RAY_AUTH_TOKEN="0" * 64)
    for command in (
        [*RAY, "job", "submit", "--", "raypose", "runs", "list", BUCKET],
        [*RAYPOSE, "submit", "runs", "list", BUCKET],
    ):
        done = subprocess.run(command, env=wrong, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "token" in done.stderr
    listed = run([*RAYPOSE, "submit", "runs", "list", f"{BUCKET}/runs"], nodes.environment(), tmp_path)
    assert "tiny" in listed, "the right one is taken"


def test_raypose_submit_predicts_from_the_bucket_into_it(nodes: Nodes, bucket: ObjectStore, tmp_path: Path) -> None:
    command = f"predict {BUCKET}/photos --model {BUCKET}/runs/tiny --out {BUCKET}/found --workers 3 --no-pictures"
    run([*RAYPOSE, "submit", *command.split()], nodes.environment(), tmp_path)
    summary = summary_of(bucket, "found")
    assert (summary["inputs"], summary["failed"]) == (PHOTOS, 0)
    parts = [bucket.read(entry.key) for entry in bucket.list("found/predictions/")]
    files = [json.loads(line)["file"] for part in parts for line in part.splitlines()]
    assert sorted(files) == [f"{number:03}.jpg" for number in range(PHOTOS)]


def test_raypose_submit_tunes_from_the_bucket_into_it(nodes: Nodes, bucket: ObjectStore, tmp_path: Path) -> None:
    places = [f"data.train={BUCKET}/train", f"data.val={BUCKET}/val", f"data.cache_dir={tmp_path}/cache"]
    tiny_sweep(tmp_path, Path("unused"), f"{BUCKET}/sweeps", *places, "train.epochs=1", budget={"trials": 2})
    run([*RAYPOSE, "submit", "tune", "sweep.yaml"], nodes.environment(), tmp_path)
    trials = [entry.key for entry in bucket.list("sweeps/sweep/") if entry.key.endswith("/weights/best.pt")]
    assert len(trials) == 2, sorted(entry.key for entry in bucket.list("sweeps/sweep/"))


def test_a_run_whose_head_was_killed_goes_on_from_its_checkpoint(
    nodes: Nodes, bucket: ObjectStore, tmp_path: Path
) -> None:
    two = ["scaling.workers=2", "scaling.cpus_per_worker=1", "scaling.virtual_workers=2"]
    run_file(tmp_path, "name=lost", *two, "train.epochs=10", "val.every_epochs=10", "checkpoint.every_steps=10")
    command = [*RAYPOSE, "submit", "train", "run.yaml", "--continue"]
    followed = subprocess.Popen(
        command, env=nodes.environment(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        wait_until(180, "no checkpoint", lambda: newest_step(bucket.child("runs/lost")) >= 20)
        nodes.kill_head()
        nodes.down()
        assert not bucket.exists("runs/lost/summary.json")
        nodes.up()
        again = run(command, nodes.environment(), tmp_path)
        said, _ = followed.communicate(timeout=120)
    finally:
        followed.kill()
    assert followed.returncode == 1, said
    assert "submit the same command again with --continue" in said
    resumed_at = int(again.partition("resumed at step ")[2].split()[0].rstrip(",;:"))
    assert resumed_at >= 20
    summary = summary_of(bucket, "runs/lost")
    assert (summary["status"], summary["steps"]) == ("completed", 60)
