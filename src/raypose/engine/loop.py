"""The training loop: train, validate, save, until the run is over."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from raypose.checkpoint import TrainProgress, best_first
from raypose.engine.bad_loss import answer_bad_loss
from raypose.engine.finish import Summary, finish
from raypose.engine.meter import Meter, peak_memory_bytes
from raypose.engine.profiler import StepProfiler
from raypose.engine.saving import Saver
from raypose.engine.setup import Parts
from raypose.engine.step import StepResult
from raypose.engine.validate import validate
from raypose.errors import ConfigError, NodeLeavingError, RunInterruptedError
from raypose.model import loss_names, set_epoch
from raypose.telemetry import EpochValidated, Notice, Reporter, RunStarted, StepsDone


def run(
    parts: Parts,
    report: Reporter,
    should_stop: Callable[[], bool] = lambda: False,
    is_warned: Callable[[], bool] = lambda: False,
    until_epoch: int | None = None,
) -> Summary | None:
    """Train from `parts.progress` to the end. Returns the summary on the leader, None elsewhere.

    Events go to `report` on the leader; the other workers may pass a reporter that does nothing. The leader asks
    `should_stop` whenever a line of the log is due; then all workers save and raise RunInterruptedError. All workers
    ask `is_warned` at the same time, and agree: some of them are about to be lost, so all save and raise
    NodeLeavingError, because steps that they still did would be done again elsewhere. After `until_epoch` epochs all of
    them stop as if they had been told to.
    """
    report(_run_started(parts))
    with Saver(parts, report) as saver:
        progress = _Loop(parts, report, should_stop, is_warned, saver, until_epoch).train(parts.progress)
    return finish(parts, progress, report)


@dataclass(frozen=True, slots=True)
class _Validated:
    progress: TrainProgress
    metrics: Mapping[str, float]
    is_best: bool


class _Loop:
    """What lives from one step to the next besides `Parts`: the meter and the clock."""

    def __init__(
        self,
        parts: Parts,
        report: Reporter,
        should_stop: Callable[[], bool],
        is_warned: Callable[[], bool],
        saver: Saver,
        until_epoch: int | None,
    ) -> None:
        self._parts = parts
        self._report = report
        self._should_stop = should_stop
        self._is_warned = is_warned
        self._saver = saver
        self._until_epoch = until_epoch
        self._meter = Meter(
            loss_names(parts.model),
            parts.world,
            batch=parts.config.train.batch,
            lanes=parts.config.scaling.lanes,
            progress=parts.progress,
        )
        self._wall_start = time.monotonic() - parts.progress.wall_seconds
        self._gradient_norm: torch.Tensor | None = None
        self._feed = parts.feed(parts.progress.step)
        self._bad_images_counted = 0
        self._images_read_counted = 0
        self._cache = parts.train_set.cache
        self._fetched_bytes_counted = self._cache.fetched_bytes() if self._cache else 0
        self._profiler = StepProfiler(parts.config.train.profile, parts.world, parts.store, report)

    def train(self, progress: TrainProgress) -> TrainProgress:
        parts = self._parts
        set_epoch(parts.model, parts.plan.epochs_completed(progress.step), parts.config.train.epochs)
        epoch = parts.plan.epochs_completed(progress.step)
        if self._until_epoch is not None and epoch >= self._until_epoch and not self._is_over(progress):
            raise self._interruption(progress)  # it came so far before, and was lost while it ended
        batches = iter(self._feed)
        while not self._is_over(progress):
            with self._profiler.recording(progress.step):
                with self._meter.waiting_for_data():
                    micro_batches = next(batches)
                result = parts.train_step(progress.step, micro_batches, progress.updates)
            progress = self._advance(progress, result)
            if result.dropped is not None:
                self._saver.wait()  # a rollback goes back to the newest checkpoint
                progress = answer_bad_loss(parts, result.dropped, progress, self._report)
            progress = self._after_step(progress)
        self._profiler.close()
        return replace(progress, wall_seconds=time.monotonic() - self._wall_start)

    def _advance(self, progress: TrainProgress, result: StepResult) -> TrainProgress:
        if result.gradient_norm is not None:
            self._gradient_norm = result.gradient_norm
        if self._pauses_after(progress.step + 1):
            self._parts.world.finish_queued()  # what waits for it below does not count as training
        return replace(
            progress,
            step=progress.step + 1,
            updates=progress.updates + (result.gradient_norm is not None),
            images=progress.images + self._parts.config.train.batch,
            bad_steps_in_a_row=0 if result.dropped is None else progress.bad_steps_in_a_row,
            train_seconds=progress.train_seconds + self._meter.add(result),
        )

    def _after_step(self, progress: TrainProgress) -> TrainProgress:
        """What is due now that `progress.step` batches are done: a line, a validation, a checkpoint, an early end."""
        parts, config = self._parts, self._parts.config
        self._saver.look()
        interrupted, warned, is_due = False, False, False
        if self._pauses_after(progress.step):
            self._report(self._steps_done(progress))
            interrupted, is_due = parts.world.from_leader(self._leader_wishes())
            warned = self._is_warned()
        epoch = parts.plan.epochs_completed(progress.step)
        epoch_ended = self._ends_epoch(progress.step)
        interrupted = interrupted or (epoch_ended and epoch == self._until_epoch)
        is_last = progress.step == parts.total_steps
        evaluation = None
        if is_last or (epoch_ended and epoch % config.val.every_epochs == 0):
            evaluation = self._validate(progress, epoch)
            progress = evaluation.progress
        saves_epoch = epoch_ended and epoch % config.checkpoint.every_epochs == 0
        saves_step = self._saves_after(progress.step)
        is_best = evaluation is not None and evaluation.is_best
        if any((saves_epoch, saves_step, is_due, is_best, interrupted, warned, self._is_over(progress))):
            progress = self._save(progress, evaluation)
        if interrupted and not self._is_over(progress):
            self._saver.wait()
            raise self._interruption(progress)
        if warned and not self._is_over(progress):
            self._saver.wait()
            raise NodeLeavingError(f"{parts.store.url}: saved after step {progress.step} of {parts.total_steps}")
        if epoch_ended:
            set_epoch(parts.model, epoch, config.train.epochs)
            if epoch in config.train.freeze_schedule:
                parts.train_step.freeze(config.train.frozen_in(epoch))
        self._meter.skip_pause()
        return progress

    def _pauses_after(self, step: int) -> bool:
        """Whether there is a line of the log: every so often, and where a checkpoint may be, so that what a line tells
        of never began before it. Else the log of a resumed run would differ from that of one that never stopped.
        """
        every_steps = self._parts.config.telemetry.log_every_steps
        return step % every_steps == 0 or self._ends_epoch(step) or self._saves_after(step)

    def _ends_epoch(self, step: int) -> bool:
        completed = self._parts.plan.epochs_completed
        return completed(step) > completed(step - 1)

    def _saves_after(self, step: int) -> bool:
        """Whether `checkpoint.every_steps` wants a checkpoint."""
        every_steps = self._parts.config.checkpoint.every_steps
        return every_steps is not None and step % every_steps == 0

    def _interruption(self, progress: TrainProgress) -> RunInterruptedError:
        parts = self._parts
        return RunInterruptedError(
            f"{parts.store.url}: stopped after step {progress.step} of {parts.total_steps}, state saved;"
            f" continue with: raypose train --resume {shlex.quote(parts.store.url)}"
        )

    def _leader_wishes(self) -> tuple[bool, bool]:
        """Whether to stop, and whether a checkpoint is due by the clock: not for each worker to decide alone."""
        return (self._should_stop(), self._saver.is_due()) if self._parts.world.is_leader else (False, False)

    def _is_over(self, progress: TrainProgress) -> bool:
        patience = self._parts.config.train.patience
        return progress.step >= self._parts.total_steps or 0 < patience <= progress.stale_epochs

    def _steps_done(self, progress: TrainProgress) -> StepsDone:
        parts = self._parts
        self._require_finite(progress)
        reading = self._meter.read_line()
        return StepsDone(
            step=progress.step,
            epoch=progress.step * parts.config.train.batch / len(parts.train_set),
            losses=reading.losses,
            learning_rates=self._learning_rates(),
            gradient_norm=None if self._gradient_norm is None else float(self._gradient_norm),
            images_per_second=reading.images_per_second,
            memory_bytes=peak_memory_bytes(parts.world.device),
            samples=len(reading.step_seconds) * parts.config.train.batch,
            images_read=self._new_images_read(),
            step_seconds=reading.step_seconds,
            data_wait_seconds=reading.wait_seconds,
            sync_seconds=reading.sync_seconds,
            fetched_bytes=self._new_fetched_bytes(),
        )

    def _validate(self, progress: TrainProgress, epoch: int) -> _Validated:
        parts = self._parts
        self._require_finite(progress)
        reading = self._meter.read_epoch()
        start = time.monotonic()
        evaluation = validate(
            parts.predictor(parts.average.module),
            parts.val_set,
            parts.world,
            batch=parts.config.val.batch,
            judge=parts.judge,
            earlier=self._best_so_far(),
        )
        metrics = parts.world.from_leader(evaluation.metrics if evaluation else {})
        best_metric = parts.config.checkpoint.best_metric
        judged = progress.judged(best_metric, best_value(metrics, best_metric), epoch)
        is_best = judged.best_epoch == epoch
        self._report(
            EpochValidated(
                epoch=epoch,
                step=progress.step,
                losses=reading.losses,
                metrics=metrics,
                learning_rates=self._learning_rates(),
                train_seconds=reading.seconds,
                val_seconds=time.monotonic() - start,
                is_best=is_best,
            )
        )
        return _Validated(judged, metrics, is_best)

    def _best_so_far(self) -> Mapping[str, float]:
        """The metrics of the best checkpoint, for the validators of the leader; they survive a restart there."""
        if not self._parts.judge.validators or not self._parts.world.is_leader:
            return {}
        self._saver.wait()
        saved = best_first(self._parts.checkpoints.saved(), self._parts.config.checkpoint.best_metric)
        return saved[0].metrics if saved else {}

    def _learning_rates(self) -> tuple[float, ...]:
        return tuple(group["lr"] for group in self._parts.train_step.optimizer.param_groups)

    def _save(self, progress: TrainProgress, validated: _Validated | None) -> TrainProgress:
        bad_samples = progress.bad_samples + self._new_bad_images()
        progress = replace(progress, wall_seconds=time.monotonic() - self._wall_start, bad_samples=bad_samples)
        progress = self._meter.keep_epoch(progress)
        if bad_samples:
            self._report(Notice(f"{bad_samples} images could not be decoded so far; others took their places"))
        self._require_finite(progress)
        if validated is None:
            self._saver.save(progress, {}, is_best=False)
        else:
            self._saver.save(progress, validated.metrics, is_best=validated.is_best)
        return progress

    def _require_finite(self, progress: TrainProgress) -> None:
        """End the run before it tells of or saves weights that a step broke whose verdict has waited on the GPU."""
        bad = self._parts.train_step.guard.first_bad()
        if bad is not None:
            answer_bad_loss(self._parts, bad, progress, self._report)

    def _new_images_read(self) -> int:
        """Images that this worker has decoded since the last call."""
        before, self._images_read_counted = self._images_read_counted, self._feed.images_read
        return self._images_read_counted - before

    def _new_fetched_bytes(self) -> int:
        """Bytes of shards that came to this node since the last call."""
        if self._cache is None:
            return 0
        before, self._fetched_bytes_counted = self._fetched_bytes_counted, self._cache.fetched_bytes()
        return max(0, self._fetched_bytes_counted - before)  # somebody may have emptied the folder

    def _new_bad_images(self) -> int:
        """Images that failed to decode since the last call, on all workers."""
        new = self._feed.bad_images - self._bad_images_counted
        self._bad_images_counted = self._feed.bad_images
        return int(self._parts.world.add_up(torch.tensor(new, device=self._parts.world.device)))


def best_value(metrics: Mapping[str, float], name: str) -> float | None:
    """The metric that decides what is best; None where it is undefined, as AP is without people to find."""
    if name not in metrics:
        raise ConfigError(
            f"checkpoint.best_metric: validation measures no {name!r}; choose one of {', '.join(sorted(metrics))}"
        )
    value = metrics[name]
    return None if math.isnan(value) else value


def _run_started(parts: Parts) -> RunStarted:
    config = parts.config
    return RunStarted(
        name=config.name,
        folder=parts.store.url,
        architecture=config.model.architecture,
        parameters=sum(parameter.numel() for parameter in parts.model.parameters()),
        workers=parts.world.size,
        virtual_workers=config.scaling.lanes,
        device=torch.device(parts.world.device).type,
        precision=parts.train_step.precision.name,
        optimizer=f"{parts.choice.name} lr0 {parts.choice.lr0:g}",
        train_images=len(parts.train_set),
        val_images=len(parts.val_set),
        epochs=config.train.epochs,
        start_step=parts.progress.step,
        total_steps=parts.total_steps,
        data_bytes=parts.train_set.size_bytes + parts.val_set.size_bytes,
        best_metric=config.checkpoint.best_metric,
    )
