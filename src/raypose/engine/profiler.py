"""A look at single steps: what each operator took, as a trace that Chrome and Perfetto open."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from raypose.config.schema import ProfileConfig
from raypose.engine.world import World
from raypose.storage import ObjectStore
from raypose.telemetry import Notice, Reporter


class StepProfiler:
    """Records the steps that `train.profile` names; each worker writes a trace of its own below `profile/`.

    What the run computes stays the same; recorded steps are slower.
    """

    def __init__(self, wanted: ProfileConfig | None, world: World, store: ObjectStore, report: Reporter) -> None:
        self._steps = range(wanted.start, wanted.start + wanted.steps) if wanted else range(0)
        self._world = world
        self._store = store
        self._report = report
        self._profile: profile | None = None
        self._first = 0

    @contextlib.contextmanager
    def recording(self, step: int) -> Iterator[None]:
        """Around everything of a step, the wait for its batch included."""
        if step not in self._steps:
            yield
            return
        if self._profile is None:
            self._begin(step)
        with record_function(f"step {step}"):
            yield
        if step == self._steps[-1]:
            self.close()

    def close(self) -> None:
        """Write the trace if there is one: at the end of its steps, or of a run that ends before."""
        if self._profile is None:
            return
        if self._world.device.startswith("cuda"):
            torch.cuda.synchronize(self._world.device)  # kernels of the last step are still under way
        self._profile.stop()
        key = f"profile/step-{self._first:08d}-rank-{self._world.rank}.json"
        with tempfile.TemporaryDirectory(prefix="raypose-profile-") as folder:
            path = Path(folder, "trace.json")
            self._profile.export_chrome_trace(str(path))
            self._store.upload(path, key)
        self._profile = None
        self._report(Notice(f"steps {self._first} and on were profiled: {self._store.place(key)}"))

    def _begin(self, step: int) -> None:
        activities = [ProfilerActivity.CPU]
        if self._world.device.startswith("cuda"):
            activities.append(ProfilerActivity.CUDA)
        self._profile, self._first = profile(activities=activities), step
        self._profile.start()
