"""What a sweep remembers of its trials, one object of storage for each, so that it can go on after any interruption."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar

from raypose.errors import CheckpointError
from raypose.storage import ObjectStore
from raypose.structures import json_ready
from raypose.tune.schema import Parameters

_Parsed = TypeVar("_Parsed")

Status = Literal["running", "paused", "interrupted", "finished", "stopped", "failed"]
"""`paused`: waits for the rest of its generation. `stopped`: ended early, its state saved. The last three are final."""

FINAL: tuple[Status, ...] = ("finished", "stopped", "failed")

SWEEP_KEY = "sweep.json"
_RECORDS = "records/"


@dataclass(frozen=True, slots=True)
class Measured:
    """The metric after an epoch."""

    epoch: int
    step: int
    value: float


@dataclass(frozen=True, slots=True)
class Exploit:
    """A trial took over the weights of another, and changed parameters, at the end of an epoch."""

    epoch: int
    source: int
    checkpoint: str
    """Where the weights came from. It may be retired by now."""
    sha256: str
    """Of its tensors."""
    parameters: Parameters
    left: tuple[Measured, ...] = ()
    """What the trial had measured with the weights that it gave up."""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Exploit:
        return cls(**{**raw, "left": _all_measured(raw["left"])})

    def to_dict(self) -> dict[str, Any]:
        raw = asdict(self)
        return {**raw, "left": [json_ready(one) for one in raw["left"]]}


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a sweep. `parameters` are those that it was drawn with; exploits change them.

    What it has measured is the history of its weights: after an exploit, that of the trial they came from.
    """

    number: int
    parameters: Parameters
    status: Status = "running"
    attempts: int = 1
    measured: tuple[Measured, ...] = ()
    exploits: tuple[Exploit, ...] = ()
    steps: int = 0
    """Batches trained, as far as they count."""
    steps_repeated: int = 0
    """Batches trained once more after failures and interruptions."""
    seconds: float = 0.0
    """That it has held its workers."""
    gpus: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of its best epoch."""
    reason: str = ""
    """Why it was stopped, or how it failed."""

    @property
    def name(self) -> str:
        """Its run's name, below `trials/` of the sweep."""
        return f"{self.number:04d}"

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def epoch(self) -> int:
        """The last one that was measured."""
        return self.measured[-1].epoch if self.measured else 0

    @property
    def current_parameters(self) -> Parameters:
        """Those that it trains with now."""
        return self.exploits[-1].parameters if self.exploits else self.parameters

    def value_at(self, epoch: int, mode: Literal["max", "min"]) -> float:
        """The best value up to and with an epoch; NaN where nothing was measured."""
        values = [one.value for one in self.measured if one.epoch <= epoch and not math.isnan(one.value)]
        if not values:
            return math.nan
        return max(values) if mode == "max" else min(values)

    def best(self, mode: Literal["max", "min"]) -> float:
        return self.value_at(self.epoch, mode)

    def with_measured(self, new: Measured) -> Trial:
        """A later measurement of the same epoch, after a restart, takes the place of the earlier one."""
        kept = tuple(one for one in self.measured if one.epoch < new.epoch)
        return replace(self, measured=(*kept, new))

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "measured": [json_ready(asdict(one)) for one in self.measured],
            "exploits": [one.to_dict() for one in self.exploits],
            "metrics": json_ready(self.metrics),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Trial:
        return cls(
            **{
                **raw,
                "measured": _all_measured(raw["measured"]),
                "exploits": tuple(Exploit.from_dict(one) for one in raw["exploits"]),
                "metrics": {name: _number(value) for name, value in raw["metrics"].items()},
            }
        )


@dataclass(frozen=True, slots=True)
class SweepState:
    """Where a sweep stands besides its trials."""

    status: Literal["running", "interrupted", "finished"] = "running"
    seconds: float = 0.0
    """That it has run, without interruptions."""
    sittings: int = 1
    """How often it was started or resumed."""
    generation: int = 0
    """The epoch up to which the exploits of `pbt` are done."""


class Records:
    """The records of one sweep in its store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self) -> tuple[SweepState, list[Trial]]:
        """Raises CheckpointError where there is no sweep."""
        if not self._store.exists(SWEEP_KEY):
            raise CheckpointError(
                f"{self._store.url}: no sweep there (no {SWEEP_KEY}); name the folder of a sweep, or begin it"
            )
        state = self._parsed(SWEEP_KEY, lambda raw: SweepState(**raw))
        keys = [entry.key for entry in self._store.list(_RECORDS) if entry.key.endswith(".json")]
        return state, sorted((self._parsed(key, Trial.from_dict) for key in keys), key=lambda trial: trial.number)

    def write_state(self, state: SweepState) -> None:
        self._store.write(SWEEP_KEY, json.dumps(asdict(state)).encode())

    def write(self, trial: Trial) -> None:
        self._store.write(f"{_RECORDS}{trial.name}.json", json.dumps(trial.to_dict(), indent=1).encode())

    def write_plan(self, epoch: int, exploits: Sequence[tuple[int, Exploit]]) -> None:
        """What is about to be taken over from whom: written before anything is touched, and done again if need be."""
        plan = [{"target": target, **exploit.to_dict()} for target, exploit in exploits]
        self._store.write(_plan_key(epoch), json.dumps({"exploits": plan}, indent=1).encode())

    def read_plan(self, epoch: int) -> list[tuple[int, Exploit]] | None:
        if not self._store.exists(_plan_key(epoch)):
            return None
        return self._parsed(
            _plan_key(epoch), lambda raw: [(one.pop("target"), Exploit.from_dict(one)) for one in raw["exploits"]]
        )

    def _parsed(self, key: str, parse: Callable[[Any], _Parsed]) -> _Parsed:
        try:
            return parse(json.loads(self._store.read(key)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{self._store.place(key)}: not a record of a sweep: {error!r}; restore it, or delete the sweep"
            ) from error


def _plan_key(epoch: int) -> str:
    return f"generations/{epoch:06d}.json"


def _all_measured(raw: Sequence[Mapping[str, Any]]) -> tuple[Measured, ...]:
    return tuple(Measured(one["epoch"], one["step"], _number(one["value"])) for one in raw)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
