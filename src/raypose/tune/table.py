"""A sweep on the terminal: a table that lives where there is a terminal, a line for each change everywhere else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from raypose.telemetry import StepsDone
from raypose.tune.checks import Sweep
from raypose.tune.controller import View
from raypose.tune.records import Trial
from raypose.tune.results import best_first, score, values_of

_MOST_ROWS = 30
_STYLES = {"finished": "green", "stopped": "yellow", "failed": "red", "running": "bold"}


class SweepDisplay:
    """Shows the views of a sweep. Use it as a context manager, so that the display ends when the sweep does."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._told: dict[int, tuple[str, int]] = {}

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, view: View) -> None:
        if self._live is not None:
            self._live.update(sweep_table(view.sweep, view.trials, view.now, view.total_steps), refresh=True)
            return
        for trial in view.trials:
            stand = (trial.status, trial.epoch)
            if self._told.get(trial.number) != stand:
                self._told[trial.number] = stand
                self._console.print(_line(view.sweep, trial), markup=False, highlight=False, soft_wrap=True)


def sweep_table(
    sweep: Sweep,
    trials: Sequence[Trial],
    now: Mapping[int, StepsDone] | None = None,
    total_steps: Mapping[int, int] | None = None,
) -> Table:
    """Trials, best first, those without a value last."""
    now, total_steps = now or {}, total_steps or {}
    ranked = best_first(sweep.config, trials)
    rest = [trial for trial in trials if trial not in ranked]
    shown = [*ranked, *rest][:_MOST_ROWS]
    columns: dict[str, list[str]] = {
        "trial": [trial.name for trial in shown],
        "status": [trial.status for trial in shown],
        "epoch": [str(trial.epoch) for trial in shown],
        "step": [f"{trial.steps}/{total_steps.get(trial.number, '')}".rstrip("/") for trial in shown],
    }
    if now:
        columns["images/s"] = [_pace(now.get(trial.number)) for trial in shown]
    values = [values_of(sweep.config, trial) for trial in shown]
    for place, metric in enumerate(sweep.metrics):
        columns[metric] = ["" if math.isnan(one[place]) else f"{one[place]:.4f}" for one in values]
    for key, name in _short_names(list(sweep.config.space)).items():
        columns[name] = [short_value(trial.current_parameters.get(key, "")) for trial in shown]

    table = Table(title=f"{sweep.config.name}: {_counts(trials)}", title_justify="left", box=None, pad_edge=False)
    for heading, cells in columns.items():
        left = heading in ("trial", "status")
        # Where the terminal is narrow, headings are folded and values are not.
        width = max((len(cell) for cell in cells), default=0)
        table.add_column(heading, justify="left" if left else "right", overflow="fold", min_width=width)
    for trial, row in zip(shown, zip(*columns.values(), strict=True), strict=True):
        table.add_row(*row, style=_STYLES.get(trial.status, ""))
    return table


def _pace(line: StepsDone | None) -> str:
    return "" if line is None else f"{line.images_per_second:.1f}"


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, where that says which."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def _line(sweep: Sweep, trial: Trial) -> str:
    value = score(sweep.config, trial)
    measured = "" if math.isnan(value) else f"  epoch {trial.epoch}  {sweep.metric} {value:.4f}"
    reason = f"  ({trial.reason})" if trial.reason and trial.is_final else ""
    return f"trial {trial.name} {trial.status}{measured}  {in_words(trial.current_parameters)}{reason}"


def in_words(parameters: Mapping[str, Any]) -> str:
    """Parameters in one line."""
    return "  ".join(f"{key} {short_value(value)}" for key, value in parameters.items())


def _counts(trials: Sequence[Trial]) -> str:
    statuses = [trial.status for trial in trials]
    return ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(sorted(statuses)))


def short_value(value: Any) -> str:
    """A value in a few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
