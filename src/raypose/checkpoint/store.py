"""Checkpoints of a run in its store: written so that a half-written one never counts, verified when read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from raypose.checkpoint.state import FORMAT_VERSION, RunIdentity, Snapshot, TrainProgress
from raypose.errors import CheckpointError, DataError, StorageError, StorageUnavailableError
from raypose.storage import ObjectStore
from raypose.storage.scratch import scratch_folder
from raypose.structures import json_ready

STATE = "state.json"
TENSORS = "state.safetensors"
MODEL = "model.pt"


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """What is known of a complete checkpoint without reading its tensors."""

    name: str
    step: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """`state.json`, checked."""

    identity: RunIdentity
    progress: TrainProgress
    metrics: dict[str, float]
    sha256: dict[str, str]
    """By file. Of the tensors: equal where all their bits are."""
    versions: dict[str, str]
    """Of the packages that wrote it."""


class CheckpointStore:
    """The checkpoints of one run, `step-00000128` and so on, below `checkpoints/` of the run's store."""

    def __init__(self, run_store: ObjectStore) -> None:
        self._run = run_store
        self._store = run_store.child("checkpoints")

    def place(self, saved: SavedCheckpoint) -> str:
        """Where a checkpoint lies, as a user would type it."""
        return self._store.place(saved.name)

    def save(
        self, snapshot: Snapshot, write_model: Callable[[Path], None], *, weights: Sequence[str] = ()
    ) -> SavedCheckpoint:
        """Store a snapshot; `write_model` writes its `model.pt`. `state.json` goes last and makes it count.

        Then `model.pt` also goes to the keys `weights` of the run, where users look for it.
        """
        step = snapshot.progress.step
        saved = SavedCheckpoint(checkpoint_name(step), step, dict(snapshot.metrics))
        with scratch_folder("checkpoint") as folder:
            tensors, model = folder / TENSORS, folder / MODEL
            safetensors.torch.save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in snapshot.tensors.items()}, tensors
            )
            write_model(model)
            state = {
                "format": FORMAT_VERSION,
                **snapshot.identity.to_dict(),
                "progress": snapshot.progress.to_dict(),
                "metrics": json_ready(snapshot.metrics),
                "versions": _versions(),
                "sha256": {path.name: _sha256(path) for path in (tensors, model)},
            }
            # A checkpoint of the same step may be there already, from before a crash: without its state it is gone.
            self._store.delete([f"{saved.name}/{STATE}"])
            for path in (tensors, model):
                self._store.upload(path, f"{saved.name}/{path.name}")
            self._store.write(f"{saved.name}/{STATE}", json.dumps(state, indent=1).encode())
            for key in weights:
                self._run.upload(model, key)
        return saved

    def saved(self, keys: Iterable[str] | None = None) -> list[SavedCheckpoint]:
        """Every complete checkpoint, oldest first. `keys` are those below `checkpoints/`, where they are known."""
        found = []
        for key in (entry.key for entry in self._store.list()) if keys is None else keys:
            name, _, file = key.partition("/")
            if file != STATE:
                continue
            try:
                state = _read_state(self._store.child(name))
            except StorageError:
                if self._store.exists(key):
                    raise
                continue  # retired since it was listed, by the training that goes on there
            found.append(SavedCheckpoint(name, state.progress.step, state.metrics))
        return sorted(found, key=lambda saved: saved.step)

    def state(self, saved: SavedCheckpoint) -> CheckpointState:
        """Where a checkpoint stands and what wrote it, without reading its tensors."""
        return _read_state(self._store.child(saved.name))

    def identity(self, saved: SavedCheckpoint) -> RunIdentity:
        """Which run a checkpoint belongs to, without reading its tensors."""
        return self.state(saved).identity

    def sizes(self) -> dict[str, int]:
        """Bytes below each checkpoint's name, also of those that never became complete."""
        sizes: dict[str, int] = {}
        for entry in self._store.list():
            name = entry.key.partition("/")[0]
            sizes[name] = sizes.get(name, 0) + entry.size_bytes
        return sizes

    def load(self, name: str) -> Snapshot:
        """Read and verify one checkpoint; CheckpointError says what is wrong with it."""
        checkpoint = self._store.child(name)
        state = _read_state(checkpoint)
        with scratch_folder("checkpoint") as folder:
            path = folder / TENSORS
            _fetch_verified(checkpoint, path, state)
            try:
                tensors = safetensors.torch.load_file(path)
            except SafetensorError as error:
                raise CheckpointError(f"{checkpoint.place(TENSORS)}: not a tensor file: {error}") from error
        return Snapshot(state.identity, state.progress, tensors, state.metrics)

    def load_latest(self, warn: Callable[[str], None]) -> Snapshot | None:
        """The newest checkpoint that is sound. A damaged one is passed over, and `warn` is told which and why."""
        for saved in reversed(self.saved()):
            try:
                return self.load(saved.name)
            except StorageUnavailableError:
                raise  # a server that is away says nothing about the checkpoint: its steps must not be done again
            except (CheckpointError, StorageError) as error:
                warn(f"{error}; falling back to the checkpoint before it")
        return None

    def copy_model(self, saved: SavedCheckpoint, run_store: ObjectStore, key: str) -> None:
        """Put a checkpoint's `model.pt` where users look for weights."""
        run_store.write(key, self._store.read(f"{saved.name}/{MODEL}"))

    def delete(self, doomed: Sequence[SavedCheckpoint]) -> None:
        """Remove checkpoints, each one's `state.json` first, so that an interrupted removal leaves no half of one."""
        for saved in doomed:
            self._store.delete([f"{saved.name}/{STATE}"])
            self._store.delete([entry.key for entry in self._store.list(f"{saved.name}/")])


def fetch_checkpoint(checkpoint: ObjectStore, folder: Path) -> None:
    """Copy what a model is loaded from, verified, out of a checkpoint's place into a local folder."""
    state = _read_state(checkpoint)
    _fetch_verified(checkpoint, folder / TENSORS, state)
    checkpoint.download(STATE, folder / STATE)


def _fetch_verified(checkpoint: ObjectStore, path: Path, state: CheckpointState) -> None:
    checkpoint.download(path.name, path)
    found, expected = _sha256(path), state.sha256[path.name]
    if found != expected:
        raise CheckpointError(
            f"{checkpoint.place(path.name)}: sha256 {found[:12]}…, {STATE} says {expected[:12]}…; the file is damaged"
        )


def _read_state(checkpoint: ObjectStore) -> CheckpointState:
    where = checkpoint.place(STATE)
    try:
        raw = json.loads(checkpoint.read(STATE))
        if raw["format"] != FORMAT_VERSION:
            raise CheckpointError(
                f"{where}: format {raw['format']}, this raypose reads {FORMAT_VERSION}; update raypose"
            )
        return CheckpointState(
            identity=RunIdentity.from_dict(raw),
            progress=TrainProgress(**raw["progress"]),
            metrics={key: math.nan if value is None else float(value) for key, value in raw["metrics"].items()},
            sha256={TENSORS: str(raw["sha256"][TENSORS])},
            versions={package: str(version) for package, version in raw["versions"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, DataError) as error:
        raise CheckpointError(
            f"{where}: not the state of a checkpoint: {error!r}; delete its folder to go back to the one before"
        ) from error


def checkpoint_name(step: int) -> str:
    """The folder of the checkpoint after `step` batches."""
    return f"step-{step:08d}"


def select_expired(
    saved: Sequence[SavedCheckpoint], *, keep_last: int, keep_best: int, best_metric: str
) -> list[SavedCheckpoint]:
    """What retention lets go of: neither among the newest `keep_last` nor among the best `keep_best`."""
    newest = sorted(saved, key=lambda one: one.step, reverse=True)[:keep_last]
    kept = {one.name for one in (*newest, *best_first(saved, best_metric)[:keep_best])}
    return [one for one in saved if one.name not in kept]


def best_first(saved: Sequence[SavedCheckpoint], best_metric: str) -> list[SavedCheckpoint]:
    """The checkpoints that were validated, best first; of equals the earlier, as early stopping has it."""
    judged = [one for one in saved if math.isfinite(one.metrics.get(best_metric, math.nan))]
    return sorted(judged, key=lambda one: (-one.metrics[best_metric], one.step))


def best_of(saved: Sequence[SavedCheckpoint], best_metric: str) -> SavedCheckpoint:
    """The best of the checkpoints that were validated, or the newest where none was. `saved` is not empty."""
    return next(iter(best_first(saved, best_metric)), saved[-1])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"raypose": version("raypose"), "torch": torch.__version__, "ultralytics": version("ultralytics")}
