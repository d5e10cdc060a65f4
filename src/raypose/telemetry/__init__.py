"""What a run says while it works, and who listens: files of the run, the terminal."""

from raypose.telemetry.events import (
    CheckpointSaved,
    EpochValidated,
    Event,
    Notice,
    Reporter,
    RunFinished,
    RunStarted,
    RunStopped,
    StepsDone,
    WorkersFailed,
    WorkersStarting,
    fan_out,
)

__all__ = [
    "CheckpointSaved",
    "EpochValidated",
    "Event",
    "Notice",
    "Reporter",
    "RunFinished",
    "RunStarted",
    "RunStopped",
    "StepsDone",
    "WorkersFailed",
    "WorkersStarting",
    "fan_out",
]
