"""The first calls of several lanes may meet: OpenVINO's Python side would then wait for itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from raypose.model import ModelSpec, export_model
from raypose.structures import COCO_PERSON
from tests.parity.conftest import ModelFactory

SPEC = ModelSpec("yolo11n-pose", COCO_PERSON, ("person",))
# Threads that only count are there to take the lock of the interpreter away in the middle of a call.
FOUR_AT_ONCE = """
import sys, threading
import numpy as np
from raypose.inference import Predictor

predictor = Predictor.load(sys.argv[1], 64, device="cpu", one_thread=True)
start = threading.Barrier(12)
counting = True

def count():
    start.wait()
    while counting:
        sum(range(50))

def call(lane):
    start.wait()
    lane.predict([np.zeros((64, 64, 3), np.uint8)])

others = [threading.Thread(target=count) for _ in range(8)]
lanes = [threading.Thread(target=call, args=(predictor.twin(),)) for _ in range(4)]
sys.setswitchinterval(1e-6)
for thread in others + lanes:
    thread.start()
for thread in lanes:
    thread.join()
counting = False
"""


def test_four_lanes_of_openvino_begin_together(lively_model: ModelFactory, tmp_path: Path) -> None:
    model = tmp_path / "m_openvino"
    export_model(lively_model(SPEC), SPEC, 64, "openvino", model, dynamic=True)
    # Without the call that `load` makes, five of six such processes hang.
    subprocess.run([sys.executable, "-c", FOUR_AT_ONCE, str(model)], check=True, timeout=120)
