"""From what a user types (a run, a checkpoint, a file of weights) to the one place that is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from raypose.checkpoint.store import STATE, CheckpointStore, best_of
from raypose.config import load_config
from raypose.errors import CheckpointError
from raypose.storage import open_store

Which = Literal["best", "last"]


def locate_model(reference: str | Path, which: Which = "best") -> Path:
    """The checkpoint folder, weights file or exported model that `reference` names.

    A run's folder stands for its best checkpoint (by its own `checkpoint.best_metric`) or its last one; everything
    else stands for itself. Raises CheckpointError where there is no such thing.
    """
    path = Path(reference).expanduser()
    if not path.exists():
        raise CheckpointError(f"{path}: no such run, checkpoint or weights file; check the path")
    if not (path / "checkpoints").is_dir():
        if path.is_dir() and not (path / STATE).is_file() and not any(path.glob("*.xml")):
            raise CheckpointError(f"{path}: neither a run (no checkpoints/ in it) nor a checkpoint (no {STATE} in it)")
        return path
    saved = CheckpointStore(open_store(str(path))).saved()
    if not saved:
        raise CheckpointError(f"{path}: the run has no complete checkpoint yet")
    if which == "last":
        return path / "checkpoints" / saved[-1].name
    best_metric = load_config(path / "config.yaml").checkpoint.best_metric
    return path / "checkpoints" / best_of(saved, best_metric).name
