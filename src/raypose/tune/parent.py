"""A sweep in MLflow: a run of its own, whose children are the runs of its trials."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from raypose.storage import ObjectStore, open_store
from raypose.telemetry.mlflow_tracker import MlflowTracker
from raypose.tune.checks import Sweep
from raypose.tune.controller import View
from raypose.tune.records import SweepState, Trial
from raypose.tune.report import REPORT_KEY
from raypose.tune.results import BEST_KEY, TRIALS_KEY, best_first, score


class MlflowParent:
    """Watches a sweep. A server that fails later on ends nothing: what it misses is warned of once.

    Made before Ray starts, so that a server that cannot be reached at all is a ConfigError. A sweep that goes on is the
    same run.
    """

    def __init__(self, sweep: Sweep, store: ObjectStore) -> None:
        config = sweep.base.telemetry.mlflow
        assert config is not None
        self._sweep, self._store = sweep, store
        self._trials = open_store(store.place("trials"))
        self._adopted: set[int] = set()
        self._ended = -1
        self._warned = False
        given = {key: str(value) for key, value in sweep.config.model_dump(mode="json", exclude_unset=True).items()}
        self._tracker = MlflowTracker(config, name=sweep.config.name, folder=store.url, parameters=given)

    def __call__(self, view: View) -> None:
        try:
            self._adopt(number for number in view.total_steps if number not in self._adopted)
            self._log(view.trials)
        except Exception as error:  # whatever MLflow raises
            self._warn(error)

    def close(self, state: SweepState, trials: Sequence[Trial]) -> None:
        """The sweep has ended, or was interrupted; what it has left is kept with the run."""
        try:
            self._log(trials)
            with tempfile.TemporaryDirectory(prefix="raypose-sweep-") as folder:
                for key in (REPORT_KEY, TRIALS_KEY, BEST_KEY):
                    if self._store.exists(key):
                        Path(folder, key).write_bytes(self._store.read(key))
                self._tracker.add_folder(Path(folder), "sweep")
            self._tracker.end("interrupted" if state.status == "interrupted" else "finished")
        except Exception as error:
            self._warn(error)

    def _adopt(self, numbers: Iterable[int]) -> None:
        for number in list(numbers):
            self._tracker.adopt(self._trials.child(f"{number:04d}").url)
            self._adopted.add(number)

    def _log(self, trials: Sequence[Trial]) -> None:
        """The best so far, over the number of trials that have ended."""
        ended = [trial for trial in trials if trial.is_final]
        ranked = best_first(self._sweep.config, ended)
        if len(ended) != self._ended and ranked:
            best = score(self._sweep.config, ranked[0])
            self._tracker.log({f"best/{self._sweep.metric}": best, "trials": len(ended)}, len(ended))
            self._ended = len(ended)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"MLflow: {type(error).__name__}: {error}; the sweep goes on without it", stacklevel=3)
