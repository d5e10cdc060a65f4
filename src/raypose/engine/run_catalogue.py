"""The runs of a storage: what there is, how far each one came, and which checkpoints may go."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypose.checkpoint import CheckpointStore, SavedCheckpoint, best_first, config_of_run, run_of, select_expired
from raypose.checkpoint.locate import CONFIG, SUMMARY
from raypose.config import RunConfig
from raypose.errors import CheckpointError, ConfigError, RayposeError
from raypose.storage import ObjectStore, StoredObject, is_remote, open_store
from raypose.structures import json_ready

_CHECKPOINTS = "checkpoints/"


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """A complete checkpoint of a run. `metrics` are empty where the run was not validated at that step."""

    name: str
    step: int
    size_bytes: int
    metrics: dict[str, float]
    is_best: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "step": self.step,
            "size_bytes": self.size_bytes,
            "is_best": self.is_best,
            "metrics": json_ready(self.metrics),
        }


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run and how far it has come: `step` is that of its newest checkpoint, 0 before the first.

    `status` is `completed`, `stopped early`, `not finished`, or `unreadable`, and `problem` then says why.
    """

    name: str
    url: str
    status: str
    size_bytes: int
    step: int = 0
    architecture: str = ""
    best_metric: str = ""
    checkpoints: tuple[CheckpointEntry, ...] = ()
    problem: str | None = None

    @property
    def best(self) -> CheckpointEntry | None:
        return next((one for one in self.checkpoints if one.is_best), None)

    def to_dict(self) -> dict[str, Any]:
        best = self.best
        return {
            "name": self.name,
            "url": self.url,
            "status": self.status,
            "size_bytes": self.size_bytes,
            "step": self.step,
            "architecture": self.architecture,
            "best_metric": self.best_metric,
            "best": None if best is None else {"step": best.step, **json_ready(best.metrics)},
            "checkpoints": [one.to_dict() for one in self.checkpoints],
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune_run` let go of, or would."""

    names: tuple[str, ...]
    size_bytes: int
    kept: tuple[str, ...]


def list_runs(storage: str) -> list[RunEntry]:
    """The runs right below a folder or `s3://` place, by name. A run that cannot be read is listed as such."""
    store = open_store(storage)
    of_run: dict[str, list[StoredObject]] = {}
    for entry in store.list():
        name, _, _ = entry.key.partition("/")
        of_run.setdefault(name, []).append(entry)
    if CONFIG in of_run:
        raise ConfigError(f"{storage}: is a run itself; list the place that it lies in, or use 'raypose runs show'")
    return [
        _entry(name, store.child(name), objects)
        for name, objects in sorted(of_run.items())
        if any(one.key == f"{name}/{CONFIG}" for one in objects) and not _is_alias(store, name)
    ]


def show_run(reference: str) -> tuple[RunEntry, RunConfig]:
    """One run and its configuration. Raises CheckpointError where there is none or it cannot be read."""
    store = open_run(reference)
    name = store.url.rstrip("/").rpartition("/")[2].partition("?")[0]
    return _read(name, store, list(store.list())), config_of_run(store)


def prune_run(reference: str, *, keep_last: int, keep_best: int, dry_run: bool) -> Pruned:
    """Delete a run's checkpoints but the newest `keep_last` and the best `keep_best` by its own metric.

    What an interrupted save has left of checkpoints before the newest goes, too.
    """
    if keep_last + keep_best < 1:
        raise ConfigError("--keep-last 0 --keep-best 0 would leave nothing of the run; keep one checkpoint at least")
    store = open_run(reference)
    checkpoints = CheckpointStore(store)
    saved, sizes = checkpoints.saved(), checkpoints.sizes()
    metric = config_of_run(store).checkpoint.best_metric
    doomed = select_expired(saved, keep_last=keep_last, keep_best=keep_best, best_metric=metric)
    doomed += _left_behind(saved, sizes)
    if not dry_run:
        checkpoints.delete(doomed)
    names = tuple(sorted(one.name for one in doomed))
    kept = tuple(one.name for one in saved if one.name not in names)
    return Pruned(names, sum(sizes[name] for name in names), kept)


def open_run(reference: str) -> ObjectStore:
    """The store of the run that `reference` names or lies in. Raises CheckpointError where there is none."""
    store = run_of(reference)
    if store is None:
        raise CheckpointError(
            f"{reference}: no run there (no {CONFIG}); name the folder of a run, such as runs/demo, or see"
            " 'raypose runs list'"
        )
    return store


def _left_behind(saved: Sequence[SavedCheckpoint], sizes: dict[str, int]) -> list[SavedCheckpoint]:
    """Incomplete checkpoints older than the newest complete one. A newer one may be on its way there."""
    complete = {one.name for one in saved}
    newest = max(complete, default="")
    return [SavedCheckpoint(name, 0) for name in sizes if name not in complete and name < newest]


def _is_alias(store: ObjectStore, name: str) -> bool:
    """Whether this is a link such as `latest`, to a run that has its own name in the same place."""
    place = Path(store.place(name))
    return not is_remote(store.url) and place.is_symlink() and place.resolve().parent == Path(store.url).resolve()


def _entry(name: str, store: ObjectStore, objects: Sequence[StoredObject]) -> RunEntry:
    try:
        return _read(name, store, [StoredObject(one.key.partition("/")[2], one.size_bytes) for one in objects])
    except RayposeError as error:
        size_bytes = sum(one.size_bytes for one in objects)
        return RunEntry(name, store.url, "unreadable", size_bytes, problem=str(error))


def _read(name: str, store: ObjectStore, objects: Sequence[StoredObject]) -> RunEntry:
    config = config_of_run(store)
    metric = config.checkpoint.best_metric
    keys = [one.key.removeprefix(_CHECKPOINTS) for one in objects if one.key.startswith(_CHECKPOINTS)]
    saved = CheckpointStore(store).saved(keys)
    best = next(iter(best_first(saved, metric)), None)
    return RunEntry(
        name=name,
        url=store.url,
        status=_status(store, objects),
        size_bytes=sum(one.size_bytes for one in objects),
        step=saved[-1].step if saved else 0,
        architecture=config.model.architecture,
        best_metric=metric,
        checkpoints=tuple(
            CheckpointEntry(one.name, one.step, _size(objects, one.name), one.metrics, one == best) for one in saved
        ),
    )


def _status(store: ObjectStore, objects: Sequence[StoredObject]) -> str:
    if not any(one.key == SUMMARY for one in objects):
        return "not finished"
    try:
        return str(json.loads(store.read(SUMMARY))["status"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{store.place(SUMMARY)}: no summary of a run ({error!r}); resume the run to write it again"
        ) from error


def _size(objects: Sequence[StoredObject], checkpoint: str) -> int:
    return sum(one.size_bytes for one in objects if one.key.startswith(f"{_CHECKPOINTS}{checkpoint}/"))
