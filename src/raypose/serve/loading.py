"""One version of a model: found, opened and checked, then called by lanes."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from raypose.checkpoint import local_model, locate_model, version_of
from raypose.checkpoint.store import STATE, fetch_checkpoint
from raypose.config.serve_schema import ComputeConfig, ServeConfig
from raypose.inference import Fitted, Predictor, Selection
from raypose.inference.backends import Backend
from raypose.model import ExportMetadata, ModelSpec
from raypose.serve.compute import Trial, open_compute, wait_for
from raypose.serve.drift import Drift, reference_of
from raypose.serve.parameters import selection_of
from raypose.storage import is_remote, open_parent, open_store
from raypose.structures import ImageArray, Poses
from raypose.vision.geometry import PAD_VALUE

Which = Literal["best", "last"]
_SUSPECT = 3
"""Calls in a row that failed, after which the model has to show that it is not to blame."""
_GREY = Selection(conf=0.25, iou=0.7, max_det=300)


@dataclass(frozen=True, slots=True)
class Located:
    """Where a model lies, and a fingerprint that differs once something else lies there."""

    place: str
    fingerprint: str


def locate(reference: str, which: Which) -> Located:
    """What `reference` names by now; see `locate_model`."""
    place = locate_model(reference, which)
    return Located(place, _fingerprint(place))


def _fingerprint(place: str) -> str:
    """By what a listing tells (size, ETag or time of change): what lies there is not read."""
    parent, name = open_parent(place)
    if parent.exists(name):
        entries = [entry for entry in parent.list(name) if entry.key == name]
    else:
        folder = parent.child(name)
        state = [entry for entry in folder.list(STATE) if entry.key == STATE]
        entries = state or list(folder.list())  # the state holds the digests of its neighbours
    return " ".join(f"{entry.key}:{entry.size_bytes}:{entry.version}" for entry in entries)


class TimedBackend:
    """A back end that remembers how long its last call took. Not for several threads, as all back ends."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.metadata: ExportMetadata = backend.metadata
        self.images_a_call = backend.images_a_call
        self.device_type = backend.device_type
        self.call_s = 0.0

    @property
    def precision(self) -> Literal["float32", "bfloat16"]:
        return self._backend.precision

    @property
    def lanes(self) -> int:
        return self._backend.lanes

    def twin(self) -> TimedBackend:
        return TimedBackend(self._backend.twin())

    def __call__(self, canvas_BHW3: ImageArray) -> Tensor:
        start_s = time.perf_counter()
        output = self._backend(canvas_BHW3)
        wait_for(output)
        self.call_s += time.perf_counter() - start_s
        return output


@dataclass(frozen=True, slots=True)
class Found:
    """What a call of the model found, and the seconds that the model and all of it took."""

    poses: list[Poses]
    inference_s: float
    total_s: float


class Model:
    """One version of a model, once for calls that have all cores, and once for each lane: of `lane_backend`, where that
    is another one.

    `fault` says why where it fails whatever it is given, as on a GPU that is lost; empty where it does not.
    """

    def __init__(
        self,
        version: str,
        located: Located,
        backend: Backend,
        imgsz: int,
        trials: Sequence[Trial],
        lane_backend: Backend | None = None,
    ) -> None:
        self.version = version
        self.located = located
        self.trials = tuple(trials)
        self.spec: ModelSpec = backend.metadata.spec
        self.imgsz = imgsz
        self.images_a_call = backend.images_a_call
        self.device_type = backend.device_type
        self.drift: Drift | None = None
        self.fault = ""
        self._failed_calls = 0
        self._alone = self._timed(backend)
        self._lane_backend = lane_backend or backend
        self._lanes: dict[int, tuple[TimedBackend, Predictor]] = {}
        self._lock = threading.Lock()

    @property
    def compute(self) -> str:
        """What computes it, such as `openvino float32`."""
        return self.trials[0].name if self.trials else "unknown"

    def fit(self, image: ImageArray, where: str) -> Fitted:
        """`Predictor.fit`, from any thread."""
        return self._alone[1].fit(image, where)

    def find(
        self, lane: int, images: Sequence[Fitted], selections: Sequence[Selection], *, alone: bool = False
    ) -> Found:
        """The people of each image; each lane calls from a thread of its own, and one at a time `alone`."""
        try:
            backend, predictor = self._alone if alone else self._lane(lane)
            start_s, backend.call_s = time.perf_counter(), 0.0
            poses = predictor.predict_fitted(images, selections)
        except Exception:
            self._failed_calls += 1
            raise
        self._failed_calls, self.fault = 0, ""
        return Found(poses, backend.call_s, time.perf_counter() - start_s)

    def examine(self, lane: int, *, alone: bool = False) -> None:
        """After several failed calls in a row, find out by a grey image, called like the last of them, whether the
        model is at fault or its images."""
        if self.fault or self._failed_calls < _SUSPECT:
            return
        grey_HW3 = np.full((self.imgsz, self.imgsz, 3), PAD_VALUE, np.uint8)
        try:
            self.find(lane, [self.fit(grey_HW3, "grey")], [_GREY], alone=alone)
        except Exception as error:
            self.fault = f"{self._failed_calls} calls in a row failed, the last on a grey image: {type(error).__name__}"

    def _lane(self, lane: int) -> tuple[TimedBackend, Predictor]:
        with self._lock:
            if lane not in self._lanes:
                self._lanes[lane] = self._timed(self._lane_backend.twin())
            return self._lanes[lane]

    def _timed(self, backend: Backend) -> tuple[TimedBackend, Predictor]:
        timed = TimedBackend(backend)
        return timed, Predictor(timed, self.imgsz, conf=0.25, iou=0.7, max_det=300)


Opener = Callable[[Located, ComputeConfig], Model]


def load(located: Located, config: ComputeConfig) -> Model:
    """The model that lies there, ready and checked.

    Raises CheckpointError or ConfigError where it cannot serve, StorageError where it cannot be read now.
    """
    with tempfile.TemporaryDirectory(prefix="raypose-serve-") as folder, local_model(located.place) as path:
        source = path if is_remote(located.place) else _verified(path, Path(folder, path.name))
        compute = open_compute(source, config, Path(folder))
        return Model(version_of(source), located, compute.backend, compute.imgsz, compute.trials, compute.lane_backend)


def comparing(service: ServeConfig, opener: Opener = load) -> Opener:
    """The same, but where the service compares requests with a data set, the model knows what it finds there."""
    if service.drift is None:
        return opener
    drift, selection = service.drift, selection_of(service.defaults)

    def opened(located: Located, config: ComputeConfig) -> Model:
        model = opener(located, config)

        def find(image_HW3: ImageArray) -> Poses:
            return model.find(0, [model.fit(image_HW3, "image")], [selection]).poses[0]

        model.drift = Drift(reference_of(find, drift), drift.window)
        return model

    return opened


def _verified(path: Path, copy: Path) -> Path:
    """A local checkpoint, copied and verified as one that comes from an object store: its run may retire it now."""
    if not (path / STATE).is_file():
        return path
    copy.mkdir()
    fetch_checkpoint(open_store(str(path)), copy)
    return copy
