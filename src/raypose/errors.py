"""Errors a user can act on: one line each, with the exit code that the command line ends with.

Every message says what, where, found, expected and what to do next. All of them survive pickling, because
they cross process boundaries between Ray workers and the driver.
"""

from __future__ import annotations


class RayposeError(Exception):
    """Base of everything raypose raises on purpose. `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(RayposeError):
    """The configuration is wrong. Holds every problem found, one line each."""

    exit_code = 2

    def __init__(self, problems: str | list[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (self.problems,)


class DataError(RayposeError):
    """A data set, label, image or shard set is not what it should be."""

    exit_code = 3


class UnsafePickleError(DataError):
    """A pickle asks for something other than plain data; it was not loaded and nothing in it ran."""


class ShardCorruptError(DataError):
    """A shard's bytes differ from what its manifest or footer promises."""


class CheckpointError(RayposeError):
    """A checkpoint is missing, damaged, or does not fit the run that asked for it."""


class StorageError(RayposeError):
    """Reading or writing storage failed."""


class StorageUnavailableError(StorageError):
    """The server of a store did not answer in time: what is kept there may be well."""


class ValidatorError(RayposeError):
    """A validator broke, or refuses what it saw: the run fails with its line."""


class TrainingError(RayposeError):
    """Training cannot go on, for example because the loss is no longer finite."""


class RunTakenOverError(RayposeError):
    """Another start of the same run writes to it now; this one has stopped."""


class NodeLeavingError(RayposeError):
    """A node of the run will soon be gone; the run has saved its state, to go on elsewhere."""


class RunInterruptedError(RayposeError):
    """The run was told to stop and has saved its state; resume continues it."""

    exit_code = 130
