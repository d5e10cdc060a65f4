"""The one import of Ultralytics: offline, quiet, and with its changes to the process undone.

Importing it would look for a network, set OMP_NUM_THREADS to 1 for every child process, turn off OpenCV's
threads, have PIL ask for another package where a file is no image, and change how arrays print. It reads its
switches from the environment, once, while it is imported.
"""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
import torch  # before Ultralytics, so that OpenMP has already counted its threads
from PIL import Image

os.environ["YOLO_OFFLINE"] = "true"
os.environ["YOLO_AUTOINSTALL"] = "false"
os.environ.setdefault("YOLO_VERBOSE", "false")

_omp_num_threads = os.environ.get("OMP_NUM_THREADS")
_cv2_threads = cv2.getNumThreads()
_numpy_print_options = np.get_printoptions()
_pil_open = Image.open

from ultralytics.cfg import get_cfg  # noqa: E402
from ultralytics.nn.modules.conv import Conv, DWConv  # noqa: E402
from ultralytics.nn.tasks import PoseModel, torch_safe_load  # noqa: E402
from ultralytics.optim import MuSGD  # noqa: E402
from ultralytics.utils import __version__ as ultralytics_version  # noqa: E402

if not _omp_num_threads:
    os.environ.pop("OMP_NUM_THREADS", None)
cv2.setNumThreads(_cv2_threads)
Image.open = _pil_open
np.set_printoptions(**_numpy_print_options)
torch.set_printoptions(profile="default")  # type: ignore[no-untyped-call]

__all__ = [
    "Conv",
    "DWConv",
    "MuSGD",
    "PoseModel",
    "byte_tracker",
    "get_cfg",
    "torch_safe_load",
    "ultralytics_version",
]


def byte_tracker(**settings: Any) -> Any:
    """Its ByteTrack, with the settings of `bytetrack.yaml`. Imported on demand: few need it, and it brings `lap`."""
    from ultralytics.trackers.byte_tracker import BYTETracker
    from ultralytics.utils import IterableSimpleNamespace

    return BYTETracker(IterableSimpleNamespace(**settings))
