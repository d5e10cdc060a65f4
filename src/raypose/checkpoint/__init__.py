"""What a run saves of itself, and how it is kept, verified, found again and retired."""

from raypose.checkpoint.locate import config_of_run, local_model, locate_model, run_of, version_of
from raypose.checkpoint.state import RunIdentity, Snapshot, TrainProgress
from raypose.checkpoint.store import (
    CheckpointState,
    CheckpointStore,
    SavedCheckpoint,
    best_first,
    best_of,
    checkpoint_name,
    select_expired,
)

__all__ = [
    "CheckpointState",
    "CheckpointStore",
    "RunIdentity",
    "SavedCheckpoint",
    "Snapshot",
    "TrainProgress",
    "best_first",
    "best_of",
    "checkpoint_name",
    "config_of_run",
    "local_model",
    "locate_model",
    "run_of",
    "select_expired",
    "version_of",
]
