"""Sweeps of seconds over runs of seconds."""

from __future__ import annotations

from pathlib import Path

import yaml

from raypose.config import dump_config
from tests.data_sets import tiny_run

STEPS_PER_EPOCH = 6


def tiny_sweep(folder: Path, data: Path, storage: str, *overrides: str, **settings: object) -> Path:
    """A sweep file and its base: 4 epochs of 6 batches a trial, one worker each."""
    base = tiny_run(
        data, folder, "train.epochs=4", "train.imgsz=32", "scaling.cpus_per_worker=1", "telemetry.log_every_steps=1",
        *overrides,
    )  # fmt: skip
    (folder / "base.yaml").write_text(dump_config(base))
    values = {
        "name": "sweep",
        "storage": storage,
        "base": "base.yaml",
        "space": {"train.lr0": {"loguniform": [1e-5, 1e-2]}},
        "metric": "box_ap50",
        "budget": {"trials": 3},
        "concurrency": 2,
        **settings,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
