"""The Ray of this machine that a command starts for itself."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import os
import ray
from raypose.launch.cluster import KEPT_MEMORY, ray_cluster

def settings():
    return {name: os.environ.get(name) for name in KEPT_MEMORY}

with ray_cluster(1):
    found = ray.get(ray.remote(settings).remote())
    here = settings()
assert found == {**KEPT_MEMORY, "MALLOC_TOP_PAD_": "4096"}, found
assert here == {**dict.fromkeys(KEPT_MEMORY), "MALLOC_TOP_PAD_": "4096"}, here
"""


def test_its_workers_keep_memory_and_this_process_stays_as_it_was() -> None:
    """Unless the user has said otherwise. What he starts later is no business of ours."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment | {"MALLOC_TOP_PAD_": "4096"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
