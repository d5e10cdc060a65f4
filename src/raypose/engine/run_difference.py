"""Where two runs part: in what they were told, in their data, in who computed them, and at which step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raypose.checkpoint import CheckpointState, CheckpointStore
from raypose.checkpoint.store import TENSORS
from raypose.engine.run_catalogue import open_run
from raypose.engine.run_records import read_run
from raypose.storage import ObjectStore
from raypose.telemetry.logbook import read_rows

_PLACE_OF_RUN = ("name", "storage")
_LOSSES = "train/"


@dataclass(frozen=True, slots=True)
class Parting:
    """The first logged step at which losses differ, and the loss that differs most there."""

    step: int
    loss: str
    values: tuple[float, float]

    @property
    def relative(self) -> float:
        """Difference over the larger of the two; infinite where one is not a number."""
        first, second = self.values
        if not (math.isfinite(first) and math.isfinite(second)):
            return math.inf
        return abs(first - second) / max(abs(first), abs(second))


@dataclass(frozen=True, slots=True)
class RunDifference:
    """What differs between two runs; empty and None where they agree, as far as both have got."""

    settings: dict[str, tuple[str, str]]
    """Configuration keys, without name and storage; `-` where a run does not have one."""
    identity: tuple[str, ...]
    """What a checkpoint needs to share to be continued and does not: `train_digest` is the data's."""
    versions: dict[str, tuple[str, str]]
    compared_steps: int
    """Steps that both have logged."""
    parting: Parting | None
    equal_checkpoints: tuple[int, ...]
    """Steps of checkpoints that both have, with the same bits."""
    other_checkpoints: tuple[int, ...]
    """Steps of checkpoints that both have, with other bits."""

    @property
    def is_same(self) -> bool:
        """No difference was found in data, numbers or bits; settings and versions may still differ."""
        return not (self.identity or self.parting or self.other_checkpoints)

    def to_dict(self) -> dict[str, Any]:
        parting = self.parting
        relative = None if parting is None or math.isinf(parting.relative) else parting.relative
        return {
            **asdict(self),
            "parting": None if parting is None else {**asdict(parting), "relative": relative},
            "is_same": self.is_same,
        }


def diff_runs(first: str, second: str) -> RunDifference:
    """Compare two runs, finished or not. Raises CheckpointError where one is none."""
    stores = open_run(first), open_run(second)
    settings = [read_run(store.url).settings for store in stores]
    states = [_states(store) for store in stores]
    newest = [max(of_run.items())[1] if of_run else None for of_run in states]
    logged = [_losses(store) for store in stores]
    common = sorted(set(states[0]) & set(states[1]))
    equal = tuple(s for s in common if states[0][s].sha256[TENSORS] == states[1][s].sha256[TENSORS])
    return RunDifference(
        settings=_differing(settings[0], settings[1], without=_PLACE_OF_RUN),
        identity=_identity_difference(newest[0], newest[1]),
        versions=_differing(
            newest[0].versions if newest[0] else {}, newest[1].versions if newest[1] else {}, without=()
        ),
        compared_steps=len(set(logged[0]) & set(logged[1])),
        parting=first_parting(logged[0], logged[1]),
        equal_checkpoints=equal,
        other_checkpoints=tuple(step for step in common if step not in equal),
    )


def first_parting(
    first: Mapping[int, Mapping[str, float]], second: Mapping[int, Mapping[str, float]]
) -> Parting | None:
    """The earliest step of both at which a loss is not the same number. Steps map to losses by name."""
    for step in sorted(set(first) & set(second)):
        partings = [
            Parting(step, name, (first[step][name], second[step][name]))
            for name in sorted(set(first[step]) & set(second[step]))
            if not _same(first[step][name], second[step][name])
        ]
        if partings:
            return max(partings, key=lambda one: one.relative)
    return None


def _same(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))


def _states(store: ObjectStore) -> dict[int, CheckpointState]:
    checkpoints = CheckpointStore(store)
    return {saved.step: checkpoints.state(saved) for saved in checkpoints.saved()}


def _losses(store: ObjectStore) -> dict[int, dict[str, float]]:
    return {
        int(row["step"]): {
            key.removeprefix(_LOSSES): math.nan if value is None else float(value)
            for key, value in row.items()
            if key.startswith(_LOSSES)
        }
        for row in read_rows(store)
        if row["kind"] == "train"
    }


def _identity_difference(first: CheckpointState | None, second: CheckpointState | None) -> tuple[str, ...]:
    if first is None or second is None:
        return ()
    one, other = asdict(first.identity), asdict(second.identity)
    return tuple(key for key in one if one[key] != other[key])


def _differing(
    first: Mapping[str, str], second: Mapping[str, str], *, without: Sequence[str]
) -> dict[str, tuple[str, str]]:
    keys = [key for key in {**first, **second} if key not in without]
    pairs = {key: (first.get(key, "-"), second.get(key, "-")) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
