"""A node of one CPU that another one of two joins later: all of them are used, and nobody asks for three."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raypose.data.synth import synthesize
from tests.served_run import add_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

PROGRAM = """
import json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ray.cluster_utils import Cluster

import raypose
from raypose.launch.cluster import ray_cluster
from raypose.launch.spread import RayTasks


@dataclass(frozen=True)
class Meeting:
    folder: str

    def __call__(self, number):
        "How many come within a time."
        Path(self.folder, str(number)).touch()
        deadline_s = time.monotonic() + 40
        while (there := len(list(Path(self.folder).iterdir()))) < 3 and time.monotonic() < deadline_s:
            time.sleep(0.05)
        return there


model, data, photos, meeting, out = sys.argv[1:]
memory = {"object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **memory})
os.environ["RAY_ADDRESS"] = cluster.address


def meet():
    return [count for _, count in RayTasks().run(Meeting(meeting), range(3))]


with ray_cluster(), ThreadPoolExecutor(1) as thread:
    there = thread.submit(meet)
    while not list(Path(meeting).iterdir()):
        time.sleep(0.05)
    cluster.add_node(num_cpus=2, **memory)
    there = there.result()
    metrics = raypose.validate(model, data=data, workers=1).metrics
    summary = raypose.predict(model, photos, out, workers=1, pictures=False)
cluster.shutdown()
print(json.dumps({"there": there, "validated": metrics["images"], "predicted": summary.images}))
"""


def test_nodes_that_come_are_used_and_workers_fit_on_one(data: Path, tmp_path: Path) -> None:
    model = add_checkpoint(tmp_path / "run", 1, seed=1, pose_ap=0.5)
    for folder in ("photos", "meeting"):
        (tmp_path / folder).mkdir()
    for number, sample in enumerate(synthesize(5, seed=5, size_px=96)):
        (tmp_path / f"photos/{number}.jpg").write_bytes(sample.image)
    places = [tmp_path / name for name in ("photos", "meeting", "out")]
    command = [sys.executable, "-c", PROGRAM, model, data / "val", *places]
    said = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True, timeout=250).stdout
    assert json.loads(said.splitlines()[-1]) == {"there": [3, 3, 3], "validated": 12, "predicted": 5}
