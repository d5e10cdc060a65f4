"""The loop of a sweep: start what there is room for, hear what is measured, end what is not worth going on."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from raypose.checkpoint import CheckpointStore
from raypose.checkpoint.adopt import adopt
from raypose.checkpoint.store import TENSORS
from raypose.config import RunConfig, dump_config
from raypose.storage import ObjectStore
from raypose.telemetry import CheckpointSaved, EpochValidated, RunStarted, StepsDone
from raypose.telemetry.logbook import METRICS_KEY
from raypose.tune.checks import Sweep
from raypose.tune.latency import Costs
from raypose.tune.population import next_boundary, takeovers
from raypose.tune.records import Exploit, Measured, Records, SweepState, Trial
from raypose.tune.results import validated
from raypose.tune.schedulers import scheduler_of
from raypose.tune.searchers import searcher_of
from raypose.tune.trials import Ended, Message, Stop, TrialRunner
from raypose.tune.warm import Point

_TICK_S = 0.5
_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class View:
    """What there is to show of a sweep that runs."""

    sweep: Sweep
    state: SweepState
    trials: Sequence[Trial]
    now: dict[int, StepsDone]
    """The last line of each trial that runs."""
    total_steps: dict[int, int]


class Controller:
    """Runs a sweep to its end. All records are written here, in one thread; trials only send messages."""

    def __init__(
        self,
        sweep: Sweep,
        store: ObjectStore,
        runner: TrialRunner,
        *,
        slots: int,
        state: SweepState,
        trials: Sequence[Trial] = (),
        prior: Sequence[Point] = (),
        costs: Costs = lambda run: {},
        scaling: dict[str, float] | None = None,
        watch: Callable[[View], None] = lambda view: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sweep, self._config, self._store = sweep, sweep.config, store
        self._runner, self._slots, self._watch, self._clock = runner, slots, watch, clock
        self._scaling = scaling or {}
        self._records = Records(store)
        self._costs = costs
        epochs = sweep.base.train.epochs
        self._searcher = searcher_of(sweep.config, epochs, prior)
        self._scheduler = scheduler_of(sweep.config, epochs)
        self._state = state
        self._trials = {trial.number: trial for trial in trials}
        self._stops: dict[int, Stop] = {}
        self._counted_until_s: dict[int, float] = {}
        self._messages: queue.SimpleQueue[tuple[int, Message]] = queue.SimpleQueue()
        self._now: dict[int, StepsDone] = {}
        self._total_steps: dict[int, int] = {}
        self._since_s = clock()
        self._earlier_s = state.seconds
        self._closing = ""
        self._interrupted = False

    def interrupt(self) -> None:
        """Ask all trials to save and the sweep to end; may be called from a signal handler."""
        self._interrupted = True

    def run(self) -> tuple[SweepState, list[Trial]]:
        """Until nothing is left to do, the budget is used up, or it was interrupted. Returns how everything stands."""
        self._write_state()
        while True:
            self._exploit_if_due()
            self._fill()
            self._watch(self._view())
            if not self._stops:
                break
            self._hear()
            self._mind_the_budget()
        self._end()
        return self._state, self._in_order()

    # --- what to start ---

    def _fill(self) -> None:
        while len(self._stops) < self._slots and not self._closing and not self._interrupted:
            trial = self._next()
            if trial is None:
                return
            self._start(trial)

    def _next(self) -> Trial | None:
        """Whoever was interrupted first, then members whose generation is over, then somebody new."""
        for trial in self._in_order():
            if trial.number not in self._stops and (
                trial.status in ("running", "interrupted") or self._may_go_on(trial)
            ):
                return replace(trial, status="running")
        number = len(self._trials)
        if number >= self._config.budget.trials:
            return None
        return Trial(number, self._searcher.propose(number, self._in_order()))

    def _may_go_on(self, trial: Trial) -> bool:
        return trial.status == "paused" and trial.epoch <= self._state.generation

    def _start(self, trial: Trial) -> None:
        config = self._run_of(trial)
        run = self._store_of(trial)
        self._keep(trial)
        self._counted_until_s[trial.number] = self._clock()

        def tell(message: Message) -> None:
            self._messages.put((trial.number, message))

        self._stops[trial.number] = self._runner.start(
            config, resume=run.exists("config.yaml"), until_epoch=self._until_epoch(), tell=tell
        )

    def _until_epoch(self) -> int | None:
        if not self._config.is_population:
            return None
        return next_boundary(self._config, self._state.generation, self._sweep.base.train.epochs)

    def _run_of(self, trial: Trial) -> RunConfig:
        place = self._store.place("trials")
        config = self._sweep.run_of(trial.current_parameters, name=trial.name, storage=place)
        return config.model_copy(update={"scaling": config.scaling.model_copy(update=self._scaling)})

    def _store_of(self, trial: Trial) -> ObjectStore:
        return self._store.child("trials").child(trial.name)

    # --- what is heard ---

    def _hear(self) -> None:
        """Everything that was said by now; waits a moment for something to be said."""
        try:
            number, message = self._messages.get(timeout=_TICK_S)
            while True:
                self._take(self._trials[number], message)
                number, message = self._messages.get_nowait()
        except queue.Empty:
            return

    def _take(self, trial: Trial, message: Message) -> None:
        match message:
            case RunStarted():
                again = max(0, trial.steps - message.start_step)
                gpus = message.workers if message.device == "cuda" else 0
                self._total_steps[trial.number] = message.total_steps
                self._keep(
                    replace(trial, steps=message.start_step, steps_repeated=trial.steps_repeated + again, gpus=gpus)
                )
            case StepsDone():
                self._now[trial.number] = message
                self._trials[trial.number] = replace(trial, steps=max(trial.steps, message.step))
            case CheckpointSaved():
                self._keep_counted(replace(trial, steps=max(trial.steps, message.step)))
            case EpochValidated():
                self._take_measured(trial, message)
            case Ended():
                self._take_end(trial, message)

    def _take_measured(self, trial: Trial, event: EpochValidated) -> None:
        metrics = {**event.metrics, **self._costs(self._run_of(trial))}
        value = metrics.get(self._sweep.metric, math.nan)
        is_new = event.epoch > trial.epoch
        trial = validated(self._config, trial, Measured(event.epoch, event.step, value), metrics)
        if is_new and not trial.reason:
            others = [one for one in self._in_order() if one.number != trial.number]
            verdict = self._scheduler.verdict(trial, others)
            if verdict is not None:
                trial = replace(trial, reason=verdict)
                self._stops[trial.number]()
        self._keep_counted(trial)

    def _take_end(self, trial: Trial, ended: Ended) -> None:
        del self._stops[trial.number]
        self._now.pop(trial.number, None)
        self._keep_counted(self._ended(trial, ended))

    def _ended(self, trial: Trial, ended: Ended) -> Trial:
        if ended.summary is not None:
            return replace(trial, status="finished", steps=int(ended.summary["steps"]), reason="")
        if trial.reason:  # goes no further, even if it could not save
            unsaved = f"; failed as it ended: {ended.error}" if ended.error else ""
            return replace(trial, status="stopped", reason=trial.reason + unsaved)
        if ended.error:
            if not ended.is_worth_a_retry or trial.attempts > self._config.retries:
                return replace(trial, status="failed", reason=ended.error)
            return replace(trial, status="interrupted", attempts=trial.attempts + 1)
        if self._interrupted:
            return replace(trial, status="interrupted")
        return (
            replace(trial, status="stopped", reason=self._closing) if self._closing else replace(trial, status="paused")
        )

    # --- population-based training ---

    def _exploit_if_due(self) -> None:
        """Once all members have come to the end of their generation, the worst take over from the best."""
        if not self._config.is_population or len(self._trials) < self._config.budget.trials:
            return
        members = [trial for trial in self._in_order() if trial.status != "failed"]
        if not members or any(trial.status != "paused" for trial in members):
            return
        epoch = min(trial.epoch for trial in members)
        if epoch <= self._state.generation:
            return  # some have paused already, others have not begun
        plan = self._records.read_plan(epoch)
        if plan is None:
            plan = self._planned(members, epoch)
            self._records.write_plan(epoch, plan)
        for target, exploit in plan:
            self._exploit(self._trials[target], exploit)
        self._state = replace(self._state, generation=epoch)
        self._write_state()

    def _planned(self, members: Sequence[Trial], epoch: int) -> list[tuple[int, Exploit]]:
        plan = []
        for takeover in takeovers(self._config, members, epoch):
            checkpoints = CheckpointStore(self._store_of(self._trials[takeover.source]))
            newest = checkpoints.saved()[-1]
            sha256 = checkpoints.state(newest).sha256[TENSORS]
            left = self._trials[takeover.target].measured
            exploit = Exploit(epoch, takeover.source, newest.name, sha256, takeover.parameters, left)
            plan.append((takeover.target, exploit))
        return plan

    def _exploit(self, target: Trial, exploit: Exploit) -> None:
        """May be done again after an interruption: sources do not move before all of it is done."""
        source = self._trials[exploit.source]
        theirs, run = self._store_of(source), self._store_of(target)
        saved = next(one for one in CheckpointStore(theirs).saved() if one.name == exploit.checkpoint)
        kept = tuple(one for one in target.exploits if one.epoch < exploit.epoch)
        taken = replace(target, exploits=(*kept, exploit), measured=source.measured, metrics=source.metrics)
        config = self._run_of(taken)
        adopt(theirs, saved, run, config.recipe_digest())
        run.write(METRICS_KEY, theirs.read(METRICS_KEY))
        run.write("config.yaml", dump_config(config).encode())
        self._keep(taken)

    # --- the end ---

    def _mind_the_budget(self) -> None:
        budget = self._config.budget
        if budget.hours is not None and self._seconds() >= budget.hours * _SECONDS_PER_HOUR:
            self._closing = f"the budget of {budget.hours:g} hours is used up"
        gpu_seconds = sum(trial.gpus * self._seconds_of(trial) for trial in self._trials.values())
        if budget.gpu_hours is not None and gpu_seconds >= budget.gpu_hours * _SECONDS_PER_HOUR:
            self._closing = f"the budget of {budget.gpu_hours:g} GPU-hours is used up"
        if self._closing or self._interrupted:
            for stop in self._stops.values():
                stop()

    def _end(self) -> None:
        if self._interrupted:
            self._state = replace(self._state, status="interrupted")
        else:
            for trial in self._in_order():
                if not trial.is_final:  # a population whose budget is used up
                    self._keep(replace(trial, status="stopped", reason=self._closing or "its population has ended"))
            self._state = replace(self._state, status="finished")
        self._write_state()
        self._watch(self._view())

    # --- where everything stands ---

    def _in_order(self) -> list[Trial]:
        return [self._trials[number] for number in sorted(self._trials)]

    def _seconds(self) -> float:
        return self._earlier_s + self._clock() - self._since_s

    def _seconds_of(self, trial: Trial) -> float:
        since = self._clock() - self._counted_until_s[trial.number] if trial.number in self._stops else 0.0
        return trial.seconds + since

    def _keep_counted(self, trial: Trial) -> None:
        """With its seconds until now, and those of the sweep: after a kill they count in the budget."""
        now_s = self._clock()
        seconds = trial.seconds + now_s - self._counted_until_s[trial.number]
        self._counted_until_s[trial.number] = now_s
        self._keep(replace(trial, seconds=round(seconds, 2)))
        self._write_state()

    def _keep(self, trial: Trial) -> None:
        self._trials[trial.number] = trial
        self._records.write(trial)

    def _write_state(self) -> None:
        self._state = replace(self._state, seconds=round(self._seconds(), 2))
        self._records.write_state(self._state)

    def _view(self) -> View:
        return View(self._sweep, self._state, self._in_order(), dict(self._now), dict(self._total_steps))
