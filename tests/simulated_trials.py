"""Trials without training: runs in storage with real checkpoints, whose one weight learns as fast as `lr0` lets it."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from raypose.checkpoint import CheckpointStore, RunIdentity, Snapshot, TrainProgress
from raypose.config import RunConfig, dump_config, load_config
from raypose.storage import ObjectStore, open_store
from raypose.structures import COCO_PERSON
from raypose.telemetry import CheckpointSaved, EpochValidated, RunStarted, StepsDone
from raypose.telemetry.logbook import METRICS_KEY, read_rows
from raypose.tune.checks import Sweep
from raypose.tune.controller import View
from raypose.tune.schema import SweepConfig
from raypose.tune.trials import Ended, Message, Stop, Tell

STEPS_PER_EPOCH = 6
BEST_LR0 = 0.01


def simulated_sweep(storage: Path, *, epochs: int = 6, **settings: Any) -> Sweep:
    """A sweep over `train.lr0`, with whatever else is given."""
    base = load_config(None, ["data.train=none", "data.val=none", f"train.epochs={epochs}", "train.optimizer=AdamW"])
    values = {
        "name": "sweep",
        "storage": str(storage),
        "base": "base.yaml",
        "space": {"train.lr0": {"loguniform": [1e-5, 1e-1]}},
        "budget": {"trials": 8},
        **settings,
    }
    return Sweep(SweepConfig.model_validate(values), base)


def learned(weight: float, lr0: float) -> float:
    """The weight after another epoch: it comes nearer to 1, fastest at BEST_LR0, a power of ten away not at all."""
    speed = 0.4 * max(0.0, 1.0 - abs(math.log10(lr0 / BEST_LR0)))
    return weight + (1.0 - weight) * speed


class SimulatedTrials:
    """A TrialRunner. `fails` says at which epoch, if any, the trial of a number fails at an attempt, counted from 1."""

    def __init__(self, fails: Callable[[int, int], int | None] = lambda number, attempt: None) -> None:
        self._fails = fails
        self._attempts: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self._heard = threading.Condition()
        self._dead = False
        self._threads: list[threading.Thread] = []
        self.starts: list[tuple[int, int]] = []
        """Number and first step of every run that was started."""
        self.most_at_a_time = 0
        self._running = 0

    def start(self, config: RunConfig, *, resume: bool, until_epoch: int | None, tell: Tell) -> Stop:
        asked = threading.Event()
        number = int(config.name)
        self._attempts[number] = self._attempts.get(number, 0) + 1
        self._running += 1
        self.most_at_a_time = max(self.most_at_a_time, self._running)
        thread = threading.Thread(target=self._run, args=(config, number, until_epoch, tell, asked), daemon=True)
        self._threads.append(thread)
        thread.start()
        return asked.set

    def watch(self, view: View) -> None:
        """To be called with every view: trials go on once what they said was heard."""
        with self._heard:
            self._seen = {trial.number: trial.epoch for trial in view.trials}
            self._heard.notify_all()

    def kill(self) -> None:
        """Whoever runs is no more."""
        with self._heard:
            self._dead = True
            self._heard.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self, config: RunConfig, number: int, until_epoch: int | None, tell: Tell, asked: threading.Event) -> None:
        def say(message: Message) -> None:
            if not self._dead:
                tell(message)

        ended = self._train(config, number, until_epoch, say, asked)
        self._running -= 1
        say(ended)

    def _train(
        self, config: RunConfig, number: int, until_epoch: int | None, tell: Tell, asked: threading.Event
    ) -> Ended:
        run = open_store(config.storage).child(config.name)
        if not run.exists("config.yaml"):
            run.write("config.yaml", dump_config(config).encode())
        saved = CheckpointStore(run).load_latest(str)
        weight = 0.0 if saved is None else float(saved.tensors["model.weight"])
        step = 0 if saved is None else saved.progress.step
        self.starts.append((number, step))
        tell(_started(config, step))
        for epoch in range(step // STEPS_PER_EPOCH + 1, config.train.epochs + 1):
            if epoch == self._fails(number, self._attempts[number]):
                return Ended(error=f"lost a worker in epoch {epoch}")
            weight, step = learned(weight, config.train.lr0), epoch * STEPS_PER_EPOCH
            tell(_step(step, epoch))
            tell(EpochValidated(epoch, step, {}, {"pose_ap": weight}, (0.1,), 1.0, 0.1, is_best=True))
            with self._heard:
                self._heard.wait_for(lambda told=epoch: self._dead or self._seen.get(number, 0) >= told)
            if self._dead:
                return Ended()
            _save(run, config, weight, step, epoch)
            tell(CheckpointSaved(step, "somewhere", 0.1, is_best=True))
            if epoch < config.train.epochs and (asked.is_set() or epoch == until_epoch):
                return Ended()
        summary = {"steps": step, "best": {"epoch": epoch, "pose_ap": weight}}
        run.write("summary.json", json.dumps(summary).encode())
        return Ended(summary)


def _save(run: ObjectStore, config: RunConfig, weight: float, step: int, epoch: int) -> None:
    rows = [row for row in read_rows(run) if row["step"] < step]
    rows.append({"kind": "val", "epoch": epoch, "step": step, "val/pose_ap": weight})
    run.write(METRICS_KEY, "".join(json.dumps(row) + "\n" for row in rows).encode())
    identity = RunIdentity("yolo11n-pose", COCO_PERSON, ("person",), 64, config.recipe_digest(), "data")
    tensors = {"model.weight": torch.tensor(weight, dtype=torch.float64)}
    snapshot = Snapshot(identity, TrainProgress(step=step), tensors, {"pose_ap": weight})
    CheckpointStore(run).save(snapshot, lambda path: path.write_bytes(b"model") and None)


def _started(config: RunConfig, step: int) -> RunStarted:
    return RunStarted(
        config.name, "", "yolo11n-pose", 1, 2, 2, "cpu", "float32", "AdamW", 48, 12, config.train.epochs, step,
        config.train.epochs * STEPS_PER_EPOCH,
    )  # fmt: skip


def _step(step: int, epoch: int) -> StepsDone:
    return StepsDone(step, float(epoch), {}, (0.1,), None, 10.0, 0, 8, 8, (0.1,), 0.0, 0.0)
