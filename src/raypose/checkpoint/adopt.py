"""A run that goes on from another run's checkpoint: the same tensors, bit for bit, under a recipe of its own."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from raypose.checkpoint.store import MODEL, STATE, TENSORS, CheckpointStore, SavedCheckpoint, fetch_checkpoint
from raypose.storage import ObjectStore


def adopt(source: ObjectStore, saved: SavedCheckpoint, target: ObjectStore, recipe_digest: str) -> str:
    """Make `saved`, of the run `source`, the only checkpoint of the run `target`; returns the SHA-256 of its tensors.

    What the target has had before goes. `recipe_digest` is that of its new configuration. Done again after it was
    interrupted, it comes to the same.
    """
    theirs, own = CheckpointStore(source), CheckpointStore(target)
    origin, place = (run.child("checkpoints").child(saved.name) for run in (source, target))
    with tempfile.TemporaryDirectory(prefix="raypose-adopt-") as folder:
        fetch_checkpoint(origin, Path(folder))  # before anything is deleted: raises where the source is not sound
        origin.download(MODEL, Path(folder, MODEL))
        state = json.loads(Path(folder, STATE).read_bytes())
        own.delete(own.saved())
        for name in (TENSORS, MODEL):
            place.upload(Path(folder, name), name)
    adopted = {"from": theirs.place(saved), "recipe_digest": state["recipe_digest"]}
    place.write(STATE, json.dumps({**state, "recipe_digest": recipe_digest, "adopted": adopted}, indent=1).encode())
    return str(state["sha256"][TENSORS])
