"""A run in Weights & Biases."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import wandb

from raypose.config.schema import WandbConfig
from raypose.errors import ConfigError
from raypose.telemetry.tracking import Ending

_EXIT_CODE: Mapping[Ending, int] = {"finished": 0, "failed": 1, "interrupted": 130}


class WandbTracker:
    """Goes on with the W&B run of the same folder, if there is one: a resumed run is the same run."""

    def __init__(
        self, config: WandbConfig, *, name: str, folder: str, parameters: Mapping[str, str | int | float | bool]
    ) -> None:
        try:
            self._run = wandb.init(
                project=config.project,
                entity=config.entity,
                name=name,
                id=hashlib.sha256(folder.encode()).hexdigest()[:16],
                resume="allow",
                mode=config.mode,
                config=dict(parameters),
                settings=wandb.Settings(console="off", silent=True),
            )
        except (wandb.errors.Error, OSError) as error:
            raise ConfigError(
                f"telemetry.wandb: {str(error).splitlines()[0]}; log in with 'wandb login', set"
                " telemetry.wandb.mode=offline, or leave telemetry.wandb out"
            ) from error
        # W&B ignores what is logged for a step that it has seen; steps that a restart does again are new points.
        self._run.define_metric("*", step_metric="step")

    def describe(self, facts: Mapping[str, str | int]) -> None:
        self._run.config.update({f"run.{key}": fact for key, fact in facts.items()}, allow_val_change=True)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({"step": step, **values})

    def add_folder(self, folder: Path, name: str) -> None:
        artifact = wandb.Artifact(f"{name}-{self._run.id}", type=name)
        artifact.add_dir(str(folder))
        # The files are copied before this returns: the folder may go away.
        self._run.log_artifact(artifact)

    def end(self, ending: Ending) -> None:
        self._run.finish(exit_code=_EXIT_CODE[ending])
