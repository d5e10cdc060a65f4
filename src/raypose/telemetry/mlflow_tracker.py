"""A run in MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from raypose.config.schema import MlflowConfig
from raypose.errors import ConfigError
from raypose.telemetry.tracking import Ending

_STATUS: Mapping[Ending, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_FOLDER_TAG = "raypose.folder"
_PARENT_TAG = "mlflow.parentRunId"
_MOST_PARAMETERS_AT_ONCE = 100
_MILLISECONDS = 1000


class MlflowTracker:
    """Goes on with the MLflow run of the same folder, if there is one: a resumed run is the same run."""

    def __init__(
        self, config: MlflowConfig, *, name: str, folder: str, parameters: Mapping[str, str | int | float | bool]
    ) -> None:
        try:
            self._client = MlflowClient(tracking_uri=config.tracking_uri)
            self._run_id = self._open(config.experiment, name, folder, parameters)
        except (MlflowException, ImportError, OSError) as error:
            raise ConfigError(
                f"telemetry.mlflow: {str(error).splitlines()[0]}; check tracking_uri, or leave telemetry.mlflow out"
            ) from error

    def describe(self, facts: Mapping[str, str | int]) -> None:
        self._client.log_batch(self._run_id, tags=[RunTag(f"raypose.{key}", str(fact)) for key, fact in facts.items()])

    def log(self, values: Mapping[str, float], step: int) -> None:
        now_ms = int(time.time() * _MILLISECONDS)
        self._client.log_batch(
            self._run_id, metrics=[Metric(key, value, now_ms, step) for key, value in values.items()]
        )

    def add_folder(self, folder: Path, name: str) -> None:
        self._client.log_artifacts(self._run_id, str(folder), name)

    def adopt(self, folder: str) -> None:
        """Make the run of that folder, if there is one in this experiment, a child of this one."""
        for run in self._runs_of(folder):
            self._client.set_tag(run.info.run_id, _PARENT_TAG, self._run_id)

    def end(self, ending: Ending) -> None:
        self._client.set_terminated(self._run_id, status=_STATUS[ending])

    def _open(self, experiment: str, name: str, folder: str, parameters: Mapping[str, str | int | float | bool]) -> str:
        found = self._client.get_experiment_by_name(experiment)
        self._experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
        earlier = self._runs_of(folder)
        if earlier:
            # Parameters of an MLflow run never change.
            self._client.update_run(earlier[0].info.run_id, status="RUNNING")
            return str(earlier[0].info.run_id)
        run = self._client.create_run(self._experiment_id, run_name=name, tags={_FOLDER_TAG: _quotable(folder)})
        params = [Param(key, str(value)) for key, value in parameters.items()]
        for start in range(0, len(params), _MOST_PARAMETERS_AT_ONCE):
            self._client.log_batch(run.info.run_id, params=params[start : start + _MOST_PARAMETERS_AT_ONCE])
        return str(run.info.run_id)

    def _runs_of(self, folder: str) -> list[Run]:
        """None or one."""
        wanted = f"tags.`{_FOLDER_TAG}` = '{_quotable(folder)}'"
        return list(self._client.search_runs([self._experiment_id], wanted, max_results=1))


def _quotable(folder: str) -> str:
    return folder.replace("'", "")
