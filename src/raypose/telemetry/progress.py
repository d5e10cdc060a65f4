"""A run on the terminal: a live display where there is one, plain lines everywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from raypose.telemetry.events import (
    CheckpointSaved,
    EpochValidated,
    Event,
    Notice,
    RunFinished,
    RunStarted,
    StepsDone,
    WorkersFailed,
    WorkersStarting,
)

_PLAIN_LINE_EVERY_S = 20.0


class TerminalProgress:
    """A Reporter that shows a run. Use it as a context manager, so that the display ends when the run does."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = self._console.is_terminal
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self._console,
            disable=not self._live,
        )
        self._task: TaskID | None = None
        self._started: RunStarted | None = None
        self._started_at_s = 0.0
        self._last_plain_line_s = -_PLAIN_LINE_EVERY_S
        self._blocked_seconds = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, WorkersStarting):
            cluster = "a Ray of this machine" if event.cluster is None else f"the cluster at {event.cluster}"
            self._print(f"starting {event.workers} {'worker' if event.workers == '1' else 'workers'} on {cluster} …")
        elif isinstance(event, RunStarted):
            self._show_start(event)
        elif isinstance(event, StepsDone):
            self._show_steps(event)
        elif isinstance(event, EpochValidated):
            self._show_epoch(event)
        elif isinstance(event, CheckpointSaved):
            self._blocked_seconds += event.blocked_seconds
            if event.is_best:
                self._print(f"  best so far, saved to {event.place}")
        elif isinstance(event, WorkersFailed):
            self._print(f"workers failed ({event.cause}): {event.detail}")
        elif isinstance(event, Notice):
            self._print(f"note: {event.text}")
        elif isinstance(event, RunFinished):
            self._print(f"done: {event.summary['epochs']} epochs in {event.summary['wall_seconds']:.0f} s")

    def _show_start(self, event: RunStarted) -> None:
        self._started, self._started_at_s = event, time.monotonic()
        resumed = f", resumed at step {event.start_step}" if event.start_step else ""
        self._print(
            f"run {event.name}: {event.architecture}, {event.parameters / 1e6:.2f} M parameters, {event.optimizer},"
            f" {event.workers} x {event.device} {event.precision}, {event.virtual_workers} virtual workers"
        )
        self._print(
            f"{event.train_images} training and {event.val_images} validation images, {event.epochs} epochs,"
            f" {event.total_steps} steps{resumed}; writing to {event.folder}"
        )
        if self._task is not None:  # a restart: the same run, from an earlier step
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task("training", total=event.total_steps, completed=event.start_step, detail="")

    def _show_steps(self, event: StepsDone) -> None:
        losses = _in_words(event.losses)
        if self._live and self._task is not None:
            detail = escape(f"{event.images_per_second:.1f} images/s  {self._where_time_goes(event)}  {losses}")
            self._bar.update(self._task, completed=event.step, description=f"epoch {event.epoch:5.2f}", detail=detail)
        elif time.monotonic() - self._last_plain_line_s >= _PLAIN_LINE_EVERY_S:
            self._last_plain_line_s = time.monotonic()
            total = self._started.total_steps if self._started else "?"
            self._print(
                f"epoch {event.epoch:.2f}  step {event.step}/{total}  {event.images_per_second:.1f} images/s"
                f"  {self._where_time_goes(event)}  {losses}  {self._time_left(event)}"
            )

    def _where_time_goes(self, event: StepsDone) -> str:
        """Shares of the time since the last look: what is neither data, other workers nor checkpoints is the model."""
        blocked, self._blocked_seconds = self._blocked_seconds, 0.0
        whole = max(sum(event.step_seconds) + blocked, 1e-9)
        waits = {"data": event.data_wait_seconds, "sync": event.sync_seconds, "checkpoints": blocked}
        shares = {"compute": whole - sum(waits.values()), **waits}
        return "  ".join(f"{name} {seconds / whole:.0%}" for name, seconds in shares.items())

    def _time_left(self, event: StepsDone) -> str:
        """At the pace since the start, validation and checkpoints included."""
        if self._started is None or event.step <= self._started.start_step:
            return ""
        elapsed_s = time.monotonic() - self._started_at_s
        left_s = elapsed_s / (event.step - self._started.start_step) * (self._started.total_steps - event.step)
        return f"left {timedelta(seconds=round(left_s))}"

    def _show_epoch(self, event: EpochValidated) -> None:
        total, best_metric = (self._started.epochs, self._started.best_metric) if self._started else ("?", "pose_ap")
        names = dict.fromkeys([best_metric, "pose_ap", "pose_ap50", "box_ap50"])
        shown = {name: event.metrics[name] for name in names if name in event.metrics}
        self._print(
            f"epoch {event.epoch}/{total}: {_in_words(shown)}  {_in_words(event.losses)}"
            f"  ({event.train_seconds:.0f} s + {event.val_seconds:.0f} s validation)"
        )

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _in_words(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name.removesuffix('_loss')} {value:.3f}" for name, value in values.items())
