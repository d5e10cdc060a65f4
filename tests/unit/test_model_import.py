"""What importing the model layer does to the process around it."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import json, os, socket, cv2
socket.getaddrinfo = lambda *_: (_ for _ in ()).throw(SystemExit("looked for a network"))
threads = cv2.getNumThreads()
import raypose.model
print(json.dumps([os.environ.get("OMP_NUM_THREADS"), cv2.getNumThreads() == threads]))
"""


def test_importing_changes_no_thread_counts_prints_nothing_and_looks_for_no_network() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[null, true]"
