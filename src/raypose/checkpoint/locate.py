"""From what a user types (a run, a checkpoint, a file of weights; a path or a URL) to the one place that is meant."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Literal

from raypose.checkpoint.store import STATE, TENSORS, CheckpointStore, best_of, fetch_checkpoint
from raypose.config import RunConfig, parse_config
from raypose.errors import CheckpointError
from raypose.storage import ObjectStore, ancestry, is_remote, open_parent, open_store
from raypose.storage.scratch import scratch_folder

Which = Literal["best", "last"]

CONFIG = "config.yaml"
SUMMARY = "summary.json"
"""What a run is, and, written last, what came of it."""
_RUN_WEIGHTS = ("weights/best.pt", "weights/last.pt")
_EXPORTED_FOLDER = "model.xml"
"""What an OpenVINO export has in it; all other formats are one file."""
_LEVELS_TO_RUN = 3
"""From `<run>/weights/best.pt` or `<run>/checkpoints/step-00000128/model.pt` up to the run."""


def locate_model(reference: str | Path, which: Which = "best") -> str:
    """Where the checkpoint, weights file or exported model lies that `reference` names.

    A run stands for its best checkpoint (by its own `checkpoint.best_metric`) or its last one, and where only its
    weights were kept, for those; everything else stands for itself. Raises CheckpointError where there is no such
    thing.
    """
    place = str(reference) if is_remote(str(reference)) else str(Path(reference).expanduser())
    folder = open_store(place)
    if folder.exists(STATE) or folder.exists(_EXPORTED_FOLDER) or _is_file(place):
        return place
    if any(folder.list("checkpoints/")):
        return _checkpoint_of_run(folder, which)
    for weights in _RUN_WEIGHTS:
        if folder.exists(weights):
            return folder.place(weights)
    if any(folder.list()) if is_remote(place) else Path(place).exists():
        raise CheckpointError(f"{place}: neither a run (no checkpoints/ in it) nor a checkpoint (no {STATE} in it)")
    raise CheckpointError(f"{place}: no such run, checkpoint or weights file; check the path")


@contextmanager
def local_model(reference: str | Path, which: Which = "best") -> Iterator[Path]:
    """What `locate_model` finds, on this machine.

    What lies in an object store is fetched, a checkpoint verified, into a temporary folder that goes with the block.
    """
    place = locate_model(reference, which)
    if not is_remote(place):
        yield Path(place)
        return
    with scratch_folder("model") as folder:
        parent, name = open_parent(place)
        local = folder / name
        if parent.exists(f"{name}/{STATE}"):
            fetch_checkpoint(parent.child(name), local)
        elif parent.exists(name) and name == TENSORS:  # which says little without the state beside it
            fetch_checkpoint(parent, folder)
        elif parent.exists(name):
            parent.download(name, local)
        else:
            for entry in parent.list(f"{name}/"):
                parent.download(entry.key, folder / entry.key)
        yield local


def version_of(path: Path) -> str:
    """A name that differs where the content does: the checkpoint's own and 8 digits of a SHA-256."""
    if path.is_file():
        return f"{path.stem}-{_digest([path])}"
    state = path / STATE  # holds the digests of its neighbours
    files = [state] if state.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())
    return f"{path.name}-{_digest(files)}"


def run_of(reference: str | Path) -> ObjectStore | None:
    """The run that `reference` names or lies in, if any."""
    nearest = islice(ancestry(str(reference)), 1 + _LEVELS_TO_RUN)
    return next((store for store in nearest if store.exists(CONFIG)), None)


def config_of_run(run: ObjectStore) -> RunConfig:
    """The configuration that a run was started with."""
    return parse_config(run.read(CONFIG).decode("utf-8", errors="replace"), run.place(CONFIG))


def _is_file(place: str) -> bool:
    if not is_remote(place):
        return Path(place).is_file()
    parent, name = open_parent(place)
    return parent.exists(name)


def _checkpoint_of_run(run: ObjectStore, which: Which) -> str:
    checkpoints = CheckpointStore(run)
    saved = checkpoints.saved()
    if not saved:
        raise CheckpointError(f"{run.url}: the run has no complete checkpoint yet")
    chosen = saved[-1] if which == "last" else best_of(saved, config_of_run(run).checkpoint.best_metric)
    return checkpoints.place(chosen)


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:8]
