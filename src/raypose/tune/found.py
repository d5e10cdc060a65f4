"""A sweep that has begun, as it is found in storage: its settings, and each trial as far as its run has saved."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from raypose.checkpoint import CheckpointStore
from raypose.checkpoint.locate import SUMMARY
from raypose.config import dump_config, parse_config
from raypose.config.load import dotted
from raypose.errors import CheckpointError
from raypose.storage import ObjectStore, is_remote, open_store
from raypose.telemetry.logbook import read_rows
from raypose.tune.checks import Sweep
from raypose.tune.latency import Costs
from raypose.tune.population import next_boundary
from raypose.tune.records import Measured, Records, SweepState, Trial
from raypose.tune.results import validated
from raypose.tune.schema import SweepConfig

SWEEP_FILE = "sweep.yaml"
BASE_FILE = "base.yaml"


def write_sweep(sweep: Sweep, store: ObjectStore) -> None:
    """What `open_sweep` reads: the sweep as it was given, and its base in full."""
    given = sweep.config.model_dump(mode="json", exclude_unset=True)
    store.write(SWEEP_FILE, yaml.safe_dump(given, sort_keys=False).encode())
    store.write(BASE_FILE, dump_config(sweep.base).encode())


def open_sweep(place: str) -> tuple[Sweep, ObjectStore]:
    """The sweep that lies at this path or URL. Raises CheckpointError where there is none."""
    store = open_store(place if is_remote(place) else str(Path(place).expanduser().absolute()))
    if not store.exists(SWEEP_FILE):
        raise CheckpointError(
            f"{place}: no sweep there (no {SWEEP_FILE}); name the folder of a sweep, STORAGE/NAME of its file"
        )
    try:
        config = SweepConfig.model_validate(yaml.safe_load(store.read(SWEEP_FILE)))
    except (ValidationError, yaml.YAMLError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).partition("\n")[0]
        raise CheckpointError(f"{store.place(SWEEP_FILE)}: not a sweep: {reason}; restore it") from error
    return Sweep(config, parse_config(store.read(BASE_FILE).decode(), store.place(BASE_FILE))), store


def find_again(sweep: Sweep, store: ObjectStore, costs: Costs = lambda run: {}) -> tuple[SweepState, list[Trial]]:
    """Where the sweep stands that lies in `store`, ready to go on."""
    records = Records(store)
    state, trials = records.read()
    boundary = next_boundary(sweep.config, state.generation, sweep.base.train.epochs)
    if sweep.config.is_population and boundary is not None and records.read_plan(boundary) is not None:
        # All had come to the end of the generation, and checkpoints were being taken over: that is done once more.
        trials = [trial if trial.is_final else replace(trial, status="paused") for trial in trials]
    else:
        runs = store.child("trials")
        trials = [_found(sweep, trial, runs.child(trial.name), state.generation, costs) for trial in trials]
    return replace(state, status="running", sittings=state.sittings + 1), trials


def differences(given: Sweep, begun: Sweep) -> list[str]:
    """Keys in which two sweeps are not the same. `base` and `overrides` count as the run that they come to."""
    ours, theirs = _settings(given), _settings(begun)
    return [key for key in {**theirs, **ours} if ours.get(key) != theirs.get(key)]


def _settings(sweep: Sweep) -> dict[str, Any]:
    """By dotted key, but for the place of sweep and trials."""
    config = sweep.config.model_dump(mode="json", exclude={"storage", "base", "overrides"})
    base = sweep.base.model_dump(mode="json", exclude={"name", "storage"})
    return {**dotted(config), **{f"{key} of base": value for key, value in dotted(base).items()}}


def _found(sweep: Sweep, trial: Trial, run: ObjectStore, generation: int, costs: Costs) -> Trial:
    """The trial as its run stands: what the sweep did not live to write down is read from there."""
    if trial.is_final:
        return trial
    if run.exists(SUMMARY):
        trial = _measured_by(trial, run, sweep, costs, until_step=None)
        return replace(trial, status="finished", steps=json.loads(run.read(SUMMARY))["steps"], reason="")
    saved = CheckpointStore(run).saved()
    newest_step = saved[-1].step if saved else 0
    trial = _measured_by(trial, run, sweep, costs, until_step=newest_step)
    if trial.reason:
        return replace(trial, status="stopped", steps=newest_step)
    if sweep.config.is_population and saved:
        boundary = next_boundary(sweep.config, generation, sweep.base.train.epochs)
        ended = boundary is not None and trial.epoch == boundary and trial.measured[-1].step <= newest_step
        return replace(trial, status="paused" if ended or trial.epoch <= generation else "interrupted")
    return replace(trial, status="interrupted")


def _measured_by(trial: Trial, run: ObjectStore, sweep: Sweep, costs: Costs, until_step: int | None) -> Trial:
    """With what its run has written down of epochs that the trial has not heard of."""
    for row in read_rows(run, until_step=until_step):
        if row["kind"] != "val" or row["epoch"] <= trial.epoch:
            continue
        metrics = {
            name.removeprefix("val/"): math.nan if value is None else float(value)
            for name, value in row.items()
            if name.startswith("val/")
        }
        metrics |= costs(sweep.run_of(trial.current_parameters, name=trial.name, storage=run.url))
        measured = Measured(row["epoch"], row["step"], metrics.get(sweep.metric, math.nan))
        trial = validated(sweep.config, trial, measured, metrics)
    return trial
