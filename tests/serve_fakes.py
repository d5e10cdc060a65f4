"""A model that takes no time, and a service around it without Ray or sockets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import numpy as np
import torch
from torch import Tensor

from raypose.config.serve_schema import ComputeConfig, ServeConfig, load_serve_config
from raypose.errors import CheckpointError
from raypose.model import ExportMetadata, ModelSpec
from raypose.serve.compute import Trial
from raypose.serve.http import create_app
from raypose.serve.loading import Located, Model, comparing
from raypose.serve.metrics import ServeMetrics
from raypose.serve.models import Library, Wanted
from raypose.serve.service import Service
from raypose.structures import ImageArray, Skeleton

SPEC = ModelSpec("yolo11n-pose", Skeleton(("head", "foot"), edges=((0, 1),)), ("person",))


class RedSquareFinder:
    """Reports the bounds of what is red. Waits for `gate`, and fails on images that are all white."""

    device_type = "cpu"
    precision: Literal["float32"] = "float32"
    lanes = 1
    images_a_call = 4

    def __init__(self, score: float, spec: ModelSpec = SPEC) -> None:
        self.metadata = ExportMetadata(spec, 64, dynamic=True, end2end=True)
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self._score = score

    def twin(self) -> RedSquareFinder:
        return self

    def __call__(self, canvas_BHW3: ImageArray) -> Tensor:
        self.batches.append(len(canvas_BHW3))
        self.gate.wait()
        return torch.stack([self._row(canvas) for canvas in canvas_BHW3])

    def _row(self, canvas: ImageArray) -> Tensor:
        if (canvas[20:40, 20:40] == 255).all():
            raise RuntimeError("white is too much for this model")
        ys, xs = np.nonzero((canvas[..., 0] > 200) & (canvas[..., 1] < 60))
        if not len(ys):
            return torch.zeros(1, 12)
        x1, y1, x2, y2 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        return torch.tensor([[x1, y1, x2, y2, self._score, 0, x1, y1, 0.8, x2, y2, 0.3]], dtype=torch.float32)


@dataclass
class Shelves:
    """Models by place, as a store would have them; an exception stands for one that cannot be loaded."""

    places: dict[str, Model | Exception] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)

    def add(self, place: str, *, score: float = 0.9, spec: ModelSpec = SPEC, fingerprint: str = "") -> RedSquareFinder:
        finder = RedSquareFinder(score, spec)
        located = Located(place, fingerprint)
        self.places[place] = Model(f"{place}-v{fingerprint}", located, finder, 64, (Trial("fake", 0.1, None),))
        self.fingerprints[place] = fingerprint
        return finder

    def open(self, located: Located, config: ComputeConfig) -> Model:
        self.opened.append(located.place)
        found = self.places[located.place]
        if isinstance(found, Exception):
            raise found
        return found

    def locate(self, reference: str, which: str) -> Located:
        if reference not in self.places:
            raise CheckpointError(f"{reference}: no such run")
        return Located(reference, self.fingerprints.get(reference, ""))


def config_for(place: str, *overrides: str) -> ServeConfig:
    return load_serve_config(None, (f"model={place}", "access.log=false", *overrides))


@asynccontextmanager
async def serving(shelves: Shelves, config: ServeConfig) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """A service with the model of its configuration, and a client that calls it in this process.

    It computes on one core, so that who holds the `gate` of a model holds all of it.
    """
    library = Library(config.compute, opener=comparing(config, shelves.open), locate=shelves.locate)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    service = Service(config, library, ServeMetrics("r0"))
    torch.set_num_threads(threads)
    try:
        await service.change(Wanted(config.model, canary=config.canary))
        transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield service, client
    finally:
        for _, model in service.models():
            model._alone[0]._backend.gate.set()  # type: ignore[attr-defined]
        service.close()


def post_scope(path: str) -> dict[str, Any]:
    """Of a request that a test sends and hears itself, message by message."""
    return {
        "type": "http", "asgi": {"spec_version": "2.3"}, "method": "POST", "path": path, "query_string": b"",
        "headers": [], "http_version": "1.1", "scheme": "http", "root_path": "",
    }  # fmt: skip


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)
