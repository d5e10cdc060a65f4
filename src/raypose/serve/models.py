"""The models that answer: loaded and checked beside the one that works, then put in its place between two requests."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from raypose.checkpoint import local_model, locate_model, version_of
from raypose.checkpoint.store import STATE, fetch_checkpoint
from raypose.config.serve_schema import CanaryConfig, ComputeConfig, ServeConfig
from raypose.errors import CheckpointError, RayposeError
from raypose.inference import Fitted, Predictor, Selection
from raypose.inference.backends import Backend
from raypose.model import ExportMetadata, ModelSpec
from raypose.serve.compute import Trial, open_compute
from raypose.serve.drift import Drift, reference_of
from raypose.serve.parameters import selection_of
from raypose.storage import is_remote, open_store
from raypose.structures import ImageArray, Poses

Role = Literal["stable", "canary"]
Which = Literal["best", "last"]
_KEPT = 2
"""Models that were replaced and stay in memory, so that going back to them takes no time."""


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
        self.call_s += time.perf_counter() - start_s
        return output


@dataclass(frozen=True, slots=True)
class Found:
    """What a call of the model found, and the seconds that the model and all of it took."""

    poses: list[Poses]
    inference_s: float
    total_s: float


class Model:
    """One version of a model, once for each lane that calls it."""

    def __init__(self, version: str, place: str, backend: Backend, imgsz: int, trials: Sequence[Trial]) -> None:
        self.version = version
        self.place = place
        self.trials = tuple(trials)
        self.spec: ModelSpec = backend.metadata.spec
        self.imgsz = imgsz
        self.images_a_call = backend.images_a_call
        self.device_type = backend.device_type
        self.drift: Drift | None = None
        self._first = TimedBackend(backend)
        self._lanes: dict[int, tuple[TimedBackend, Predictor]] = {0: (self._first, self._predictor(self._first))}
        self._lock = threading.Lock()

    @property
    def compute(self) -> str:
        """What computes it, such as `openvino float32`."""
        return self.trials[0].name if self.trials else "unknown"

    def fit(self, image: ImageArray, where: str) -> Fitted:
        """`Predictor.fit`, from any thread."""
        return self._lanes[0][1].fit(image, where)

    def find(self, lane: int, images: Sequence[Fitted], selections: Sequence[Selection]) -> Found:
        """The people of each image; each lane calls from a thread of its own."""
        with self._lock:
            if lane not in self._lanes:
                twin = self._first.twin()
                self._lanes[lane] = twin, self._predictor(twin)
            backend, predictor = self._lanes[lane]
        start_s, backend.call_s = time.perf_counter(), 0.0
        poses = predictor.predict_fitted(images, selections)
        return Found(poses, backend.call_s, time.perf_counter() - start_s)

    def _predictor(self, backend: TimedBackend) -> Predictor:
        return Predictor(backend, self.imgsz, conf=0.25, iou=0.7, max_det=300)


Opener = Callable[[str, Which, ComputeConfig], Model]


def load(reference: str, which: Which, config: ComputeConfig) -> Model:
    """The model that `reference` names, ready and checked. Raises a RayposeError where it cannot serve."""
    place = locate_model(reference, which)
    with tempfile.TemporaryDirectory(prefix="raypose-serve-") as folder, local_model(place) as path:
        source = path if is_remote(place) else _verified(path, Path(folder, path.name))
        compute = open_compute(source, config, Path(folder))
        return Model(version_of(source), place, compute.backend, compute.imgsz, compute.trials)


def comparing(service: ServeConfig, opener: Opener = load) -> Opener:
    """The same, but where the service compares requests with a data set, the model knows what it finds there."""
    if service.drift is None:
        return opener
    drift, selection = service.drift, selection_of(service.defaults)

    def opened(reference: str, which: Which, config: ComputeConfig) -> Model:
        model = opener(reference, which, config)

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


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which models a service is to answer with. What `user_config` of Ray Serve may change while it runs."""

    model: str
    which: Which = "best"
    follow_s: float | None = None
    canary: CanaryConfig | None = None


@dataclass(frozen=True, slots=True)
class Shelf:
    """Who answers now. Replaced as a whole, so that a request sees the one or the other."""

    stable: Model
    canary: Model | None = None
    share: float = 0.0

    def pick(self, number: int) -> tuple[Role, Model]:
        """The model for the request of this number: of n in a row, the canary gets n times its share, rounded."""
        if self.canary is None or int((number + 1) * self.share) == int(number * self.share):
            return "stable", self.stable
        return "canary", self.canary

    def named(self, role_or_version: str) -> tuple[Role, Model] | None:
        """The model of a role or a version, if it is here."""
        for role, model in self.all():
            if role_or_version in (role, model.version):
                return role, model
        return None

    def all(self) -> list[tuple[Role, Model]]:
        both: list[tuple[Role, Model]] = [("stable", self.stable)]
        return both if self.canary is None else [*both, ("canary", self.canary)]


class Library:
    """Loads models and decides which of them answer. `shelf` may be read from any thread; changes wait for each other.

    A model that cannot be loaded, or is another kind than what is served, changes nothing: it is told in `refusals`.
    """

    def __init__(
        self,
        compute: ComputeConfig,
        opener: Opener = load,
        locate: Callable[[str, Which], str] = locate_model,
    ) -> None:
        self.shelf: Shelf | None = None
        self.refusals: OrderedDict[str, str] = OrderedDict()
        self.wanted: Wanted | None = None
        self._compute = compute
        self._open = opener
        self._locate = locate
        self._retired: OrderedDict[str, Model] = OrderedDict()
        self._changing = threading.Lock()

    def change(self, wanted: Wanted) -> bool:
        """Serve what is wanted from now on. True once it does; raises only where nothing has served before."""
        with self._changing:
            try:
                stable = self._get(wanted.model, wanted.which)
                canary = None if wanted.canary is None else self._get(wanted.canary.model, "best", like=stable)
            except RayposeError as error:
                if self.shelf is None:
                    raise
                self._refuse(wanted.model, str(error))
                return False
            self._show(Shelf(stable, canary, wanted.canary.share if wanted.canary else 0.0))
            self.wanted = wanted
            self.refusals.clear()
            return True

    def follow(self) -> bool:
        """Serve the run's best checkpoint where that is another one by now; True if so."""
        with self._changing:
            wanted, shelf = self.wanted, self.shelf
            if wanted is None or shelf is None:
                return False
            try:
                place = self._locate(wanted.model, wanted.which)
                if place == shelf.stable.place or place in self.refusals:
                    return False
                newer = self._get(wanted.model, wanted.which)
            except RayposeError as error:
                self._refuse(wanted.model, str(error))
                return False
            self._show(replace(shelf, stable=newer))
            return True

    def to_dict(self) -> dict[str, Any]:
        """For `/v1/models`."""
        shelf = self.shelf
        return {
            "models": [] if shelf is None else [_described(role, model, shelf.share) for role, model in shelf.all()],
            "previous": [model.version for model in reversed(self._retired.values())],
            "refused": [{"model": place, "reason": reason} for place, reason in self.refusals.items()],
        }

    def _get(self, reference: str, which: Which, like: Model | None = None) -> Model:
        """Of those in memory, or loaded; of the kind of `like` or of what is served."""
        place = self._locate(reference, which)
        here = [model for _, model in self.shelf.all()] if self.shelf else []
        known = next((model for model in (*here, *self._retired.values()) if model.place == place), None)
        try:
            model = known or self._open(reference, which, self._compute)
            like = like or (here[0] if here else None)
            if like is not None:
                require_same_kind(model, like)
        except RayposeError as error:
            self._refuse(place, str(error))
            raise
        return model

    def _refuse(self, place: str, reason: str) -> None:
        self.refusals[place] = reason.partition("\n")[0]
        while len(self.refusals) > 20:
            self.refusals.popitem(last=False)

    def _show(self, shelf: Shelf) -> None:
        before = [model for _, model in self.shelf.all()] if self.shelf else []
        self.shelf = shelf
        now = [model for _, model in shelf.all()]
        for model in now:
            self._retired.pop(model.place, None)
        for model in before:
            if model not in now:
                self._retired[model.place] = model
        while len(self._retired) > _KEPT:
            self._retired.popitem(last=False)


def require_same_kind(model: Model, served: Model) -> None:
    """Clients count on the keypoints and classes that they have seen so far."""
    difference = served.spec.skeleton.difference(model.spec.skeleton)
    if not difference and model.spec.class_names != served.spec.class_names:
        difference = f"classes {', '.join(model.spec.class_names)} instead of {', '.join(served.spec.class_names)}"
    if difference:
        raise CheckpointError(f"{model.place}: {difference}; a service keeps its skeleton: start another one for it")


def _described(role: Role, model: Model, share: float) -> dict[str, Any]:
    return {
        "role": role,
        "version": model.version,
        "place": model.place,
        "architecture": model.spec.architecture,
        "imgsz": model.imgsz,
        "compute": model.compute,
        "share": share if role == "canary" else 1.0 - share,
    }
