"""A run of the bare engine in a process that SIGKILL ends at a chosen moment. Forked from one that has torch loaded."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from raypose.config import RunConfig
from raypose.engine.loop import run
from raypose.engine.setup import prepare
from raypose.engine.world import World
from raypose.storage.local import LocalStore
from raypose.telemetry import Event, StepsDone
from tests.forked import forking


@dataclass(frozen=True, slots=True)
class AfterSteps:
    """So long after this many more steps are done: in the step that follows, or in what is being saved meanwhile."""

    steps: int
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class InValidation:
    """So long after the last step of an epoch, when the validation has begun."""

    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AtWrite:
    """Instead of the write of this number (from 1) to the run's storage; half of a file is there by then."""

    number: int


Kill = AfterSteps | InValidation | AtWrite

STEPS_PER_EPOCH = 6


class KillingStore(LocalStore):
    """A folder whose writer is killed at the write of a number."""

    def __init__(self, root: Path, writes_left: list[int]) -> None:
        super().__init__(root)
        self._writes_left = writes_left

    def child(self, prefix: str) -> KillingStore:
        return KillingStore(self.root / prefix, self._writes_left)

    def upload(self, path: Path, key: str) -> None:
        self._count(key, path.read_bytes())
        super().upload(path, key)

    def write(self, key: str, content: bytes) -> None:
        self._count(key, content)
        super().write(key, content)

    def _count(self, key: str, content: bytes) -> None:
        self._writes_left[0] -= 1
        if self._writes_left[0] == 0:
            place = self.root / key
            place.parent.mkdir(parents=True, exist_ok=True)
            place.with_name(f".partial-{place.name}").write_bytes(content[: len(content) // 2])
            _kill_this_process()


def train_in_process(config: RunConfig, kill: Kill | None) -> bool:
    """Run or continue `config` in a process of its own; whether it came to its end before it was killed."""
    process = forking().Process(target=_train, args=(config, kill))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"exit code {process.exitcode}"
    return process.exitcode == 0


def _train(config: RunConfig, kill: Kill | None) -> None:
    torch.set_num_threads(1)
    number = kill.number if isinstance(kill, AtWrite) else 0
    store = KillingStore(Path(config.storage, config.name), [number])

    parts = prepare(config, World(), store, lambda event: None)
    kill_step, delay_s = _moment(kill, parts.progress.step)

    def report(event: Event) -> None:
        if isinstance(event, StepsDone) and event.step == kill_step:
            threading.Thread(target=_kill_after, args=(delay_s,), daemon=True).start()

    run(parts, report)


def _moment(kill: Kill | None, start: int) -> tuple[int | None, float]:
    """After which step, and how long after, a run that begins at `start` is killed."""
    match kill:
        case AfterSteps(steps, delay_s):
            return start + steps, delay_s
        case InValidation(delay_s):
            return (start // STEPS_PER_EPOCH + 1) * STEPS_PER_EPOCH, delay_s
    return None, 0.0


def _kill_after(delay_s: float) -> None:
    time.sleep(delay_s)
    _kill_this_process()


def _kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train_through(config: RunConfig, kills: Sequence[Kill]) -> int:
    """Run `config`, killed at each of these moments in turn, then to its end; how many kills came in time."""
    return sum(not train_in_process(config, kill) for kill in kills)
