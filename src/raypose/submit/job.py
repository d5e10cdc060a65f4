"""A job on a Ray cluster, from its submission to its exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from raypose.errors import ConfigError, RayposeError, RunInterruptedError, TrainingError
from raypose.submit.pack import pack

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
STOP_WAIT_S = 120
"""How long a job that is told to stop may take for its last checkpoint; by default Ray kills it after 3 s."""
_POLL_S = 1.0
_PATIENCE_S = 60.0
_ANSWER_S = 10.0


class JobFailedError(RayposeError):
    """The job's command ended with an exit code of its own, which is the one to end with here."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        self.exit_code = exit_code
        super().__init__(message)

    def __reduce__(self) -> tuple[type[JobFailedError], tuple[str, int]]:
        return type(self), (str(self), self.exit_code)


class Cluster:
    """The jobs of one cluster, to which the first call connects.

    Raises ConfigError where `address` is none or the token is refused, TrainingError where nobody answers.
    """

    def __init__(self, address: str | None) -> None:
        self.address = (address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS).rstrip("/")

    @cached_property
    def _client(self) -> JobSubmissionClient:
        return _connect(self.address)

    def submit(self, words: Sequence[str], include: Iterable[Path], name: str | None = None) -> str:
        """Start `raypose <words>` and return the job's name.

        Raises ConfigError where the cluster has a job of this name, TrainingError where it takes none.
        """
        with tempfile.TemporaryDirectory(prefix="raypose-job-") as folder:
            packed = pack(words, include, Path.cwd(), Path(folder))
            runtime_env = {
                # An empty folder would be no valid package.
                **({"working_dir": folder} if any(Path(folder).iterdir()) else {}),
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
            }
            try:
                return str(
                    self._client.submit_job(
                        entrypoint=shlex.join(["raypose", *packed]),
                        submission_id=name,
                        runtime_env=runtime_env,
                        metadata={"raypose": shlex.join(words)},
                    )
                )
            except OSError as error:
                raise self._no_answer(error) from error
            except RuntimeError as error:
                raise self._refusal(error, name) from error

    def _no_answer(self, error: OSError | RuntimeError) -> TrainingError:
        return TrainingError(
            f"{self.address}: cannot talk to the cluster: {_last_line(error)}; try again, and see by"
            " 'ray job list' whether it has the job"
        )

    def _refusal(self, error: RuntimeError, name: str | None) -> RayposeError:
        if name is not None and "already exists" in str(error):
            return ConfigError(
                f"--name {name}: {self.address} has a job of this name; choose another, or see that one with:"
                f" raypose submit --follow {shlex.quote(name)}"
            )
        return TrainingError(f"{self.address}: the cluster takes no job: {_last_line(error)}; see 'ray status' there")

    def link(self, job: str) -> str:
        """Its page in Ray's dashboard."""
        return f"{self.address}/#/jobs/{job}"

    def follow(self, job: str, write: Callable[[str], object], say: Callable[[str], object]) -> None:
        """Pass its log to `write` until it has ended; Ctrl-C stops the job, a second one leaves it to itself.

        Raises JobFailedError with the exit code of its command, RunInterruptedError where it was stopped.
        """
        self._require(job)
        log = _Log(self._client, job, write)
        try:
            details = log.follow()
        except KeyboardInterrupt:
            say(f"stopping {job}: it has {STOP_WAIT_S} s for a checkpoint; Ctrl-C again leaves it alone")
            try:
                self._client.stop_job(job)
                details = log.follow()
            except (OSError, RuntimeError) as error:
                raise self._no_answer(error) from error
            except KeyboardInterrupt:
                again = f"raypose submit --follow {shlex.quote(job)}"
                raise RunInterruptedError(f"{job} is left to itself; look again with: {again}") from None
        _raise_outcome(job, details)

    def _require(self, job: str) -> None:
        try:
            self._client.get_job_info(job)
        except OSError as error:
            raise self._no_answer(error) from error
        except RuntimeError as error:
            raise ConfigError(f"{job}: no such job at {self.address}; 'ray job list' names those there are") from error


def _require_answer(address: str) -> None:
    """Raise TrainingError within seconds where nobody answers: Ray's client would wait without end.

    ConfigError where `address` is no URL, which that client would take for something else.
    """
    if not address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{address}: expected the URL of a Ray dashboard, such as {DEFAULT_ADDRESS}; name it with --address or"
            " RAY_API_SERVER_ADDRESS"
        )
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=_ANSWER_S).close()
    except urllib.error.HTTPError:
        return  # an answer, and Ray's client knows what it means
    except (OSError, ValueError, HTTPException) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLError):
            return  # the client may know other authorities
        raise _no_dashboard(address, error) from error


def _no_dashboard(address: str, error: Exception) -> TrainingError:
    reason = str(getattr(error, "reason", error)).partition("\n")[0]
    return TrainingError(f"{address}: no Ray dashboard answers: {reason}; name it with --address")


def _connect(address: str) -> JobSubmissionClient:
    _require_answer(address)
    import ray.exceptions
    from ray.job_submission import JobSubmissionClient

    for module in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)  # they tell of packages and sockets, unasked
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # which Ray prefers to the argument
    try:
        return JobSubmissionClient(address)
    except ray.exceptions.AuthenticationError as error:
        raise ConfigError(
            f"{address}: the cluster refuses the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's own"
        ) from error
    except (OSError, RuntimeError) as error:  # OSError: also what a proxy or another server answers
        raise _no_dashboard(address, error) from error


def _last_line(error: Exception) -> str:
    """What happened: Ray passes on the traceback of the server, and a full stop of its own after it."""
    return str(error).rstrip(".\n").rpartition("\n")[2]


class _Log:
    """The log of a job, followed over as many connections as it takes: a proxy may close one at any time."""

    def __init__(self, client: JobSubmissionClient, job: str, write: Callable[[str], object]) -> None:
        self._client = client
        self._job = job
        self._write = write
        self._written = 0

    def follow(self) -> JobDetails:
        """Write what has not been written yet until the job has ended."""
        lost_at_s: float | None = None
        while True:
            try:
                asyncio.run(self._stream())
                details = self._client.get_job_info(self._job)
                if details.status.is_terminal():
                    self._add(self._client.get_job_logs(self._job), before=0)
                    return details
                lost_at_s = None
            except (OSError, RuntimeError) as error:
                lost_at_s = lost_at_s or time.monotonic()
                if time.monotonic() - lost_at_s > _PATIENCE_S:
                    raise TrainingError(
                        f"{self._job}: the cluster has not answered for {_PATIENCE_S:.0f} s: {error};"
                        " if its head is gone, submit the same command again with --continue"
                    ) from error
            time.sleep(_POLL_S)

    async def _stream(self) -> None:
        seen = 0
        async for text in self._client.tail_job_logs(self._job):
            self._add(text, before=seen)
            seen += len(text)

    def _add(self, text: str, before: int) -> None:
        """Each connection tells the log from its beginning: `before` is what this one has told before `text`."""
        new = text[max(0, self._written - before) :]
        if new:
            self._write(new)
            self._written += len(new)


def _raise_outcome(job: str, details: JobDetails) -> None:
    from ray.job_submission import JobStatus

    code = details.driver_exit_code
    if details.status == JobStatus.SUCCEEDED:
        return
    if details.status == JobStatus.STOPPED or code == RunInterruptedError.exit_code:
        raise RunInterruptedError(f"{job} was stopped; the same command with --continue goes on from its checkpoint")
    reason = (details.message or "").partition("\n")[0]
    if code is None:
        raise JobFailedError(f"{job} failed without an exit code: {reason}")
    raise JobFailedError(f"{job} failed with exit code {code}", code)
