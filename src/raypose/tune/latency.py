"""What a trial's model costs to use: `latency_ms`, a metric besides those of validation."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import product

import numpy as np

from raypose.config import RunConfig
from raypose.errors import ConfigError
from raypose.storage import ObjectStore
from raypose.tune.checks import Sweep
from raypose.tune.space import corners

LATENCY = "latency_ms"
LATENCY_KEY = "latency.json"

Costs = Callable[[RunConfig], Mapping[str, float]]

_MOST_MODELS = 64
_WARM_UP, _LEAST_CALLS, _MOST_CALLS, _ENOUGH_S = 3, 5, 30, 1.0


def models_of(sweep: Sweep) -> list[tuple[str, int]]:
    """Architectures and image sizes of the space. ConfigError where they are too many to be measured one by one."""
    sides = []
    for key, of_base in (
        ("model.architecture", sweep.base.model.architecture),
        ("train.imgsz", sweep.base.train.imgsz),
    ):
        domain = sweep.config.space.get(key)
        values = [] if domain is None else list(corners(domain))
        sides.append(dict.fromkeys([*values, *([of_base] if domain is None or domain.when else [])]))
    models = list(product(*sides))
    if len(models) > _MOST_MODELS:
        raise ConfigError(
            f"against: {LATENCY} would have to be measured for {len(models)} pairs of model.architecture and"
            f" train.imgsz, more than {_MOST_MODELS}; give fewer choices"
        )
    return models


def costs_of(sweep: Sweep, store: ObjectStore) -> Costs:
    """What to add to the metrics of a run: nothing, unless the sweep asks for it.

    Weights do not change how long a model takes, so each kind is measured once, on this machine and before trials keep
    it busy. A sweep that goes on keeps what it has measured.
    """
    if LATENCY not in sweep.metrics:
        return lambda run: {}
    if not store.exists(LATENCY_KEY):
        measured = {
            _name(architecture, imgsz): measure_ms(architecture, imgsz, sweep.base)
            for architecture, imgsz in models_of(sweep)
        }
        store.write(LATENCY_KEY, json.dumps(measured, indent=1).encode())
    table: Mapping[str, float] = json.loads(store.read(LATENCY_KEY))
    return lambda run: {LATENCY: table[_name(run.model.architecture, run.train.imgsz)]}


def measure_ms(architecture: str, imgsz: int, base: RunConfig) -> float:
    """Median time of one square image through an untrained network as it predicts, without decoding or suppression."""
    from raypose.data.shard_set import ShardSet
    from raypose.inference.backends import ComputeOptions, TorchBackend
    from raypose.model import ModelSpec, build_model

    train_set = ShardSet.open(base.data.train)
    spec = ModelSpec(architecture, train_set.skeleton, train_set.class_names)
    options = ComputeOptions(device=base.scaling.device, precision="auto")
    backend = TorchBackend.of_copy(build_model(spec, base.train, seed=0), spec, imgsz, options)
    image_BHW3 = np.full((1, imgsz, imgsz, 3), 114, np.uint8)
    for _ in range(_WARM_UP):
        backend(image_BHW3).cpu()
    seconds: list[float] = []
    while len(seconds) < _LEAST_CALLS or (len(seconds) < _MOST_CALLS and sum(seconds) < _ENOUGH_S):
        start = time.perf_counter()
        backend(image_BHW3).cpu()
        seconds.append(time.perf_counter() - start)
    return round(1000 * statistics.median(seconds), 3)


def _name(architecture: str, imgsz: int) -> str:
    return f"{architecture} {imgsz}"
