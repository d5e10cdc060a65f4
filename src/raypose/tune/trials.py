"""Trials as ordinary runs: each a thread that trains, as `raypose train` does, on the Ray of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from raypose.config import RunConfig
from raypose.errors import ConfigError, RunInterruptedError, RunTakenOverError
from raypose.telemetry import Event


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial's run is over: with a summary, with its state saved (`error` empty), or with an error."""

    summary: Mapping[str, Any] | None = None
    error: str = ""
    is_worth_a_retry: bool = True


Message = Event | Ended
Tell = Callable[[Message], None]
Stop = Callable[[], None]


class TrialRunner(Protocol):
    """What a sweep runs its trials with."""

    def start(self, config: RunConfig, *, resume: bool, until_epoch: int | None, tell: Tell) -> Stop:
        """Begin or continue a run and return at once.

        `tell` hears its events in any thread, and, last, Ended. The function that is returned asks it to save and end.
        """


class RayTrials:
    """A thread for each trial: Ray Train's own processes do the work."""

    def start(self, config: RunConfig, *, resume: bool, until_epoch: int | None, tell: Tell) -> Stop:
        asked = threading.Event()

        def run() -> None:
            tell(_train(config, resume, until_epoch, tell, asked.is_set))

        # A daemon, so that a second Ctrl-C does not have to wait for it.
        threading.Thread(target=run, name=f"raypose-trial-{config.name}", daemon=True).start()
        return asked.set


def _train(
    config: RunConfig, resume: bool, until_epoch: int | None, tell: Tell, should_stop: Callable[[], bool]
) -> Ended:
    from raypose.launch.driver import train

    try:
        summary = train(config, tell, resume=resume, should_stop=should_stop, until_epoch=until_epoch)
    except RunInterruptedError:
        return Ended()
    except Exception as error:  # whatever it is, the other trials go on
        line = (str(error) or type(error).__name__).splitlines()[0]
        return Ended(error=line, is_worth_a_retry=not isinstance(error, ConfigError | RunTakenOverError))
    return Ended(summary)
