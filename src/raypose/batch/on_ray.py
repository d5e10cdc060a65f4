"""Parts predicted by a pool of Ray Data's actors, all over the cluster that this process is connected to."""

from __future__ import annotations

import gc
import json
import logging
import pickle
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raypose.batch.plan import PLAN_FILE, Part, Plan
from raypose.batch.results import Tally
from raypose.batch.work import PartWork, PosePredictor
from raypose.errors import ConfigError, RayposeError, StorageError
from raypose.inference import Lanes
from raypose.storage import ObjectStore, is_remote, open_store

_ATTEMPTS = 4
"""How often a part is begun whose worker dies: what kills four of them is the part itself."""
_PARTS_AT_A_TIME = 2
"""In each worker: while one begins or ends, and its last images leave a lane without work, another one has some."""
_MOST_BLOCKS = 4096
"""Of parts, each a task: a plan of millions of images gives tasks several parts."""


@dataclass(frozen=True, slots=True)
class Crew:
    """`workers` actors, and the CPUs and GPUs that each of them reserves on its node."""

    workers: int
    cpus: int
    gpus: float


def predict_on_ray(
    plan: Plan, parts: Sequence[Part], out: str, open_predictor: Callable[[], PosePredictor], *, batch: int, crew: Crew
) -> Iterator[tuple[Part, Tally]]:
    """Each part with what it came to, whichever is done first.

    A part whose worker or node dies is begun again elsewhere. Raises RayposeError where one cannot be done, ConfigError
    where this process is a client of Ray, for which Ray Data does not work.
    """
    import ray
    import ray.data
    import ray.util.client

    if ray.util.client.ray.is_connected():
        raise ConfigError("RAY_ADDRESS: Ray Data does not work through ray://; use 'raypose submit predict'")
    _be_quiet(ray.data.DataContext.get_current())
    rows = [{"part": json.dumps(part.to_dict())} for part in parts]
    blocks = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`ray_remote_args`")  # no named parameter sets max_task_retries
        done = blocks.map(
            _Actor,
            fn_constructor_args=(replace(plan, parts=()), out, open_predictor, batch, crew.cpus),
            compute=ray.data.ActorPoolStrategy(
                size=min(crew.workers, len(parts)),
                max_concurrent_calls_per_actor=_PARTS_AT_A_TIME,
                enable_true_multi_threading=True,
            ),
            num_cpus=crew.cpus,
            num_gpus=crew.gpus or None,
            max_task_retries=_ATTEMPTS - 1,
        )
    by_number = {part.number: part for part in parts}
    try:
        for row in done.iter_rows():
            outcome = pickle.loads(row["outcome"])  # noqa: S301 - made by our own worker
            if isinstance(outcome, Exception):
                raise outcome
            yield by_number[row["part"]], outcome
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RayposeError(
            f"a worker failed: {lines[-1].strip()}; what is done stays done, run the same command again to go on"
        ) from error


class _Actor:
    """A worker process: opens the model once, then predicts parts, whichever threads bring them."""

    def __init__(
        self, plan: Plan, out: str, open_predictor: Callable[[], PosePredictor], batch: int, cpus: int
    ) -> None:
        import torch

        torch.set_num_threads(cpus)
        predictor = open_predictor()
        self._root, self._out = plan.root, open_store(out)
        self._work = PartWork(plan, self._out, predictor, Lanes(predictor), batch=batch)
        gc.freeze()  # a million objects of libraries: to look through them again and again stops all threads for .3 s

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part = Part.from_dict(json.loads(row["part"]))
        outcome: Tally | RayposeError
        try:
            require_shared(self._root, self._out)
            outcome = self._work(part)
        except RayposeError as error:  # a value, because Ray would wrap it
            outcome = error
        return {"part": part.number, "outcome": pickle.dumps(outcome)}


def require_shared(root: str, out: ObjectStore) -> None:
    """Raise StorageError where this node has not the folders that the plan was made of.

    Every image would be published as one that cannot be read, or what is published would stay on a disk of this node.
    """
    missing = [root] if not is_remote(root) and not Path(root).is_dir() else []
    missing += [] if out.exists(PLAN_FILE) else [out.place(PLAN_FILE)]
    if missing:
        raise StorageError(
            f"{' and '.join(missing)}: not there on {socket.gethostname()}; workers on several machines need folders"
            " that all of them share, or s3:// URLs"
        )


def _be_quiet(context: Any) -> None:
    """Ray Data draws bars of its own, and warns where they are turned off; and it measures what nobody reads."""
    context.enable_progress_bars = False
    context.memory_usage_poll_interval_s = None  # adds up all pages of a worker every second, for a report of its own
    for name, level in (("ray.data", logging.WARNING), ("ray.data._internal.progress", logging.ERROR)):
        logging.getLogger(name).setLevel(level)
