"""Runs side by side: what was set differently, and which did better at what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raypose.errors import ConfigError
from raypose.evaluate.run import COUNTS
from raypose.structures import json_ready

_NEITHER = frozenset({*COUNTS, "best_f1_conf"})
_LESS_IS_BETTER = ("_error_px", "_error_box", "_ece")
_SAME_TEST = ("data.val", "val.protocol", "val.sigmas")
"""Settings that decide what is measured."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run has left behind. `settings` are its configuration with dotted keys, as text.

    `metrics` are those of its best checkpoint, as far as they are defined; `history` are the rows of `metrics.jsonl`.
    """

    name: str
    url: str
    status: str
    settings: Mapping[str, str]
    metrics: Mapping[str, float]
    history: Sequence[Mapping[str, Any]]
    best_epoch: float = math.nan
    images_per_second: float = math.nan
    train_seconds: float = math.nan


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Runs under names that differ. `settings` has only those that differ, `-` where a run has none.

    `metrics` has NaN where a run lacks one; `best` says for each metric which runs have the best value, none where
    neither more nor less is better or all are equal. `notes` say what stands in the way of comparing.
    """

    runs: tuple[RunRecord, ...]
    settings: Mapping[str, tuple[str, ...]]
    metrics: Mapping[str, tuple[float, ...]]
    best: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain builtins for JSON; undefined numbers become None."""
        return {
            "runs": [
                {
                    "name": run.name,
                    "url": run.url,
                    "status": run.status,
                    **json_ready(
                        {
                            "best_epoch": _whole(run.best_epoch),
                            "images_per_second": run.images_per_second,
                            "train_seconds": run.train_seconds,
                        }
                    ),
                    "metrics": json_ready(
                        {name: _whole(value) if name in COUNTS else value for name, value in run.metrics.items()}
                    ),
                }
                for run in self.runs
            ],
            "settings": {key: list(values) for key, values in self.settings.items()},
            "best": {name: [self.runs[index].name for index in best] for name, best in self.best.items()},
            "notes": list(self.notes),
        }


def compare_runs(runs: Sequence[RunRecord]) -> RunComparison:
    """Compare at least two runs. Raises ConfigError for fewer, or for one that is named twice."""
    urls = [run.url for run in runs]
    twice = next((url for url in urls if urls.count(url) > 1), None)
    if len(runs) < 2 or twice:
        found = f"{twice} twice" if twice else f"{len(runs)} run"
        raise ConfigError(f"compare: {found}; name two different runs or more")
    metrics = {
        name: tuple(run.metrics.get(name, math.nan) for run in runs)
        for name in dict.fromkeys(name for run in runs for name in run.metrics)
    }
    return RunComparison(
        runs=tuple(runs),
        settings=_differences(runs),
        metrics=metrics,
        best={name: _best(name, values) for name, values in metrics.items()},
        notes=_notes(runs, metrics),
    )


def _whole(count: float) -> float:
    """A count as the integer it is; NaN stays."""
    return int(count) if math.isfinite(count) else count


def _differences(runs: Sequence[RunRecord]) -> dict[str, tuple[str, ...]]:
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: tuple(run.settings.get(key, "-") for run in runs) for key in keys if key not in ("name", "storage")}
    return {key: value for key, value in values.items() if len(set(value)) > 1}


def _best(name: str, values: Sequence[float]) -> tuple[int, ...]:
    """Validators' metrics, whose names have a dot, are theirs to judge."""
    known = [value for value in values if math.isfinite(value)]
    if name in _NEITHER or "." in name or len(set(known)) < 2:
        return ()
    best = min(known) if name.endswith(_LESS_IS_BETTER) else max(known)
    return tuple(index for index, value in enumerate(values) if value == best)


def _notes(runs: Sequence[RunRecord], metrics: Mapping[str, tuple[float, ...]]) -> tuple[str, ...]:
    apart = [key for key in _SAME_TEST if len({run.settings.get(key) for run in runs}) > 1]
    apart += [name for name in COUNTS if len({v for v in metrics.get(name, ()) if math.isfinite(v)}) > 1]
    notes = []
    if apart:
        notes.append(f"{', '.join(apart)} differ: the runs were not measured alike, compare their metrics with care")
    notes += [
        f"{run.name} is {run.status}: its metrics are those of its best epoch so far"
        for run in runs
        if run.status not in ("completed", "stopped early") and run.metrics
    ]
    notes += [f"{run.name} has not been validated yet" for run in runs if not run.metrics]
    return tuple(notes)
