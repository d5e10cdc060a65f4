"""What tests that train begin and end with: drawn people, a run of seconds, and its newest checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypose.checkpoint import CheckpointStore, Snapshot
from raypose.config import RunConfig, load_config
from raypose.data.build import build_shard_set
from raypose.data.importers import source_of
from raypose.data.synth import synthesize
from raypose.storage import open_store
from raypose.structures import COCO_PERSON


def build_synthetic(
    folder: Path, *, train: int = 48, val: int = 12, size_px: int = 96, shard_bytes: int = 48 * 1024
) -> Path:
    """Shard sets `folder`/train and `folder`/val of drawn people, each of a few shards."""
    for name, count, seed in (("train", train, 1), ("val", val, 2)):
        samples = synthesize(count, seed, size_px)
        build_shard_set(source_of(samples, COCO_PERSON, ("person",)), str(folder / name), shard_bytes=shard_bytes)
    return folder


def tiny_run(data: Path, storage: Path, *overrides: str) -> RunConfig:
    """A run of seconds: 12 batches of 8 small images in 2 epochs, with nothing drawn for people to look at."""
    settings = [
        f"data.train={data}/train", f"data.val={data}/val", f"storage={storage}", "name=tiny", "train.epochs=2",
        "train.batch=8", "train.nbs=8", "train.imgsz=64", "train.optimizer=AdamW", "train.lr0=0.001",
        "train.warmup_epochs=1", "augment.close_mosaic=1", "val.pictures=0", "val.training_images=0",
        "telemetry.log_every_steps=2", "telemetry.tensorboard=false",
    ]  # fmt: skip
    return load_config(None, [*settings, *overrides])


def newest_checkpoint(run: RunConfig | str | Path) -> Snapshot:
    """Of a run by its configuration or its folder."""
    folder = f"{run.storage}/{run.name}" if isinstance(run, RunConfig) else str(run)
    snapshot = CheckpointStore(open_store(folder)).load_latest(pytest.fail)
    assert snapshot is not None
    return snapshot


def files_in(folder: Path) -> dict[str, bytes]:
    """By their paths below the folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
