"""A sweep from its file, or from its place in storage, to its results."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from raypose.errors import CheckpointError, ConfigError, RunInterruptedError, TrainingError
from raypose.storage import ObjectStore, is_remote, open_store, require_writable
from raypose.tune.checks import Sweep, load_sweep
from raypose.tune.controller import Controller, View
from raypose.tune.found import differences, find_again, open_sweep, write_sweep
from raypose.tune.latency import LATENCY_KEY, Costs, costs_of
from raypose.tune.preflight import check_with_data, read_warm_starts
from raypose.tune.records import SWEEP_KEY, Records, SweepState, Trial
from raypose.tune.report import REPORT_KEY, render_sweep
from raypose.tune.results import BEST_KEY, TRIALS_KEY, best_first, front_of, publish_results, render_best, score
from raypose.tune.room import Room, room_for
from raypose.tune.table import in_words
from raypose.tune.trials import RayTrials
from raypose.tune.warm import PRIOR_KEY, read_prior, write_prior

if TYPE_CHECKING:
    from raypose.tune.parent import MlflowParent


Watch = Callable[[View], None]


@dataclass(frozen=True, slots=True)
class SweepResult:
    """How a sweep stands."""

    sweep: Sweep
    state: SweepState
    trials: Sequence[Trial]
    store: ObjectStore

    @property
    def ranked(self) -> list[Trial]:
        """Trials that measured something, best first."""
        return best_first(self.sweep.config, self.trials)

    def text(self) -> str:
        """The end of a sweep in a few lines: the best trial, and where everything lies."""
        lines = [f"{self.state.status}: {len(self.trials)} trials, {self.state.seconds:.0f} s"]
        if self.ranked:
            best = self.ranked[0]
            lines += [
                f"best       trial {best.name}  {self.sweep.metric} {score(self.sweep.config, best):.4f}"
                f"  {in_words(best.current_parameters)}",
                f"run        {self.store.child('trials').place(best.name)}",
            ]
        if self.sweep.config.against:
            names = ", ".join(trial.name for trial in front_of(self.sweep.config, self.trials))
            lines.append(f"front      {names}  ({', '.join(self.sweep.metrics)})")
        files = {"settings": BEST_KEY, "trials": TRIALS_KEY, "report": REPORT_KEY}
        lines += [f"{noun:10} {self.store.place(key)}" for noun, key in files.items() if self.store.exists(key)]
        return "\n".join(lines)


def begin(sweep: Sweep, watch: Watch) -> SweepResult:
    """Run a new sweep to its end; everything a user can get wrong is raised before Ray starts."""
    store = _store_of(sweep)
    if store.exists(SWEEP_KEY) or store.exists("config.yaml"):
        raise ConfigError(
            f"{store.url}: there is a sweep or run of this name already; choose another name than"
            f" {sweep.config.name!r}, or continue the sweep with: raypose tune --resume {shlex.quote(store.url)}"
        )
    check_with_data(sweep, store)
    prior = read_warm_starts(sweep)
    require_writable(store, "storage")
    store.delete([PRIOR_KEY, LATENCY_KEY])  # of a start that did not come to its first record
    write_sweep(sweep, store)
    if prior:
        write_prior(store, prior)
    return _run(sweep, store, SweepState(), [], costs_of(sweep, store), watch)


def resume(place: str, watch: Watch) -> SweepResult:
    """Go on with an interrupted sweep: trials that ended are kept, the others continue from their own checkpoints."""
    sweep, store = open_sweep(place)
    state, trials = Records(store).read()
    if state.status == "finished":
        if not store.exists(REPORT_KEY):  # it was killed after its last record
            _publish(sweep, store, state, trials, _parent_of(sweep, store))
        return SweepResult(sweep, state, trials, store)
    costs = costs_of(sweep, store)
    state, trials = find_again(sweep, store, costs)
    return _run(sweep, store, state, trials, costs, watch)


def status(place: str) -> SweepResult:
    """How a sweep stands, whether it runs or not."""
    sweep, store = open_sweep(place)
    state, trials = Records(store).read()
    return SweepResult(sweep, state, trials, store)


def best_yaml(place: str, number: int | None = None) -> str:
    """The text of `best.yaml` as things stand now, or that of the trial of a number, such as one of a front.

    Raises CheckpointError where nothing was measured yet.
    """
    result = status(place)
    chosen = [trial for trial in result.ranked if number in (None, trial.number)]
    if not chosen:
        which = "no trial was validated yet" if number is None else f"there is no trial {number:04d} that was validated"
        raise CheckpointError(f"{place}: {which}; see 'raypose tune --status'")
    return render_best(result.sweep, result.store, chosen[0])


def check(path: str) -> str:
    """Check a sweep file against its data as `begin` would, and say in a line what it would run."""
    sweep = load_sweep(path)
    check_with_data(sweep, _store_of(sweep))
    read_warm_starts(sweep)
    config = sweep.config
    return (
        f"{path}: sound: {config.budget.trials} trials of {len(config.space)} settings by {config.searcher.use} search,"
        f" scheduler {config.scheduler.use}, {in_modes(sweep)}; would write to {_store_of(sweep).url}"
    )


def in_modes(sweep: Sweep) -> str:
    """What is looked for: `max of pose_ap and min of latency_ms`."""
    return " and ".join(f"{mode} of {name}" for mode, name in zip(sweep.config.modes, sweep.metrics, strict=True))


def begun_place(path: str) -> str | None:
    """Where the sweep of this file lies, if it has begun. ConfigError where it began with other settings."""
    given = load_sweep(path)
    store = _store_of(given)
    if not store.exists(SWEEP_KEY):
        return None
    if changed := differences(given, open_sweep(store.url)[0]):
        raise ConfigError(
            f"{path}: the sweep at {store.url} has begun with another {', '.join(changed)}; choose another name than"
            f" {given.config.name!r}, or go on as it was: raypose tune --resume {shlex.quote(store.url)}"
        )
    return store.url


def _run(
    sweep: Sweep, store: ObjectStore, state: SweepState, trials: Sequence[Trial], costs: Costs, watch: Watch
) -> SweepResult:
    from raypose.launch.claim import Claim, ClaimedStore
    from raypose.launch.cluster import ray_cluster
    from raypose.launch.nodes import alive_nodes

    # Of two processes that run one sweep, the later goes on; the earlier ends at its next record.
    store = ClaimedStore(store, Claim.take(store))
    parent = _parent_of(sweep, store)
    with ray_cluster(Room.local_cpus(sweep)):
        room = room_for(sweep, alive_nodes())
        controller = Controller(
            sweep, store, RayTrials(), slots=room.slots, state=state, trials=trials, prior=read_prior(store),
            costs=costs, scaling=room.scaling, watch=_both(watch, parent) if parent else watch,
        )  # fmt: skip
        store.delete([REPORT_KEY])  # of an interruption: a report of a sweep that has finished is of all of it
        with _interrupted_by_signals(controller.interrupt):
            state, done = controller.run()
    _publish(sweep, store, state, done, parent)
    if state.status == "interrupted":
        raise RunInterruptedError(
            f"{store.url}: stopped, the state of all trials saved; continue with:"
            f" raypose tune --resume {shlex.quote(store.url)}"
        )
    result = SweepResult(sweep, state, done, store)
    if not result.ranked:
        failed = next((trial for trial in done if trial.status == "failed"), None)
        reason = f"trial {failed.name} failed: {failed.reason}" if failed else "no trial came to its first validation"
        raise TrainingError(f"{store.url}: nothing was measured; {reason}")
    return result


def _publish(
    sweep: Sweep, store: ObjectStore, state: SweepState, trials: Sequence[Trial], parent: MlflowParent | None
) -> None:
    """What a sweep leaves; the report last, by which `resume` knows that nothing is missing."""
    publish_results(sweep, store, trials)
    store.write(REPORT_KEY, render_sweep(sweep, state, trials, store.url).encode())
    if parent:
        parent.close(state, trials)


def _parent_of(sweep: Sweep, store: ObjectStore) -> MlflowParent | None:
    if sweep.base.telemetry.mlflow is None:
        return None
    from raypose.tune.parent import MlflowParent

    return MlflowParent(sweep, store)


def _both(one: Watch, other: Watch) -> Watch:
    def watch(view: View) -> None:
        one(view)
        other(view)

    return watch


def _store_of(sweep: Sweep) -> ObjectStore:
    storage = sweep.config.storage
    place = storage if is_remote(storage) else str(Path(storage).expanduser().absolute())
    return open_store(place).child(sweep.config.name)


@contextlib.contextmanager
def _interrupted_by_signals(interrupt: Callable[[], None]) -> Iterator[None]:
    """Until the end of the block, SIGINT and SIGTERM ask the sweep to save and end; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def request(number: int, _: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.default_int_handler)
        interrupt()

    # Installed after ray.init, which puts handlers of its own in place.
    before: Mapping[signal.Signals, Any] = {
        number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
