"""Predict a whole source: a file of results for each part of it, pictures, and in the end a summary.

All that a run remembers lies in its output. So it goes on from there, wherever and however it ended, and each input has
one result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from raypose.batch.on_ray import Crew, predict_on_ray
from raypose.batch.plan import PARTS_FOLDER, Part, Plan, Settings, settle_plan
from raypose.batch.results import Tally, read_tally
from raypose.batch.work import PartWork, PosePredictor
from raypose.data.threads import map_in_threads
from raypose.errors import ConfigError
from raypose.inference import lanes_of
from raypose.storage import ObjectStore, open_store

SUMMARY_FILE = "summary.json"
_SHOWN_FAILURES = 100
_READERS = 8

Opener = Callable[[], PosePredictor]
"""Opens the model; pickles, because workers open it themselves."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is: `done` of `inputs`, `resumed` of them from before; and this run's `images` in `seconds`."""

    done: int
    inputs: int
    resumed: int
    images: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PredictSummary:
    """What came of a source. `failures` are the first lines of what could not be read, `failed` says how many.

    `resumed` of the inputs were there from an earlier run; the rate is that of this one.
    """

    inputs: int
    images: int
    people: int
    failed: int
    failures: tuple[str, ...]
    resumed: int
    wall_s: float
    images_per_second: float
    out: str

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        resumed = f", {self.resumed} of {self.inputs} inputs from before" if self.resumed else ""
        return (
            f"{self.images} images, {self.people} people{failed}{resumed}, {self.wall_s:.1f} s"
            f" ({self.images_per_second:.1f} images/s): {self.out}"
        )


def predict_source(
    open_predictor: Opener,
    source: str,
    out: str | Path,
    settings: Settings,
    *,
    crew: Crew | None = None,
    batch: int = 8,
    on_progress: Callable[[Progress], None] | None = None,
) -> PredictSummary:
    """Write `predictions/part-….jsonl` (or .parquet), `pictures/` and `summary.json` to `out`.

    `source` and `out` are paths or `s3://` URLs. Without a `crew` this process predicts, else its actors of the Ray
    that is connected; the files are the same. What cannot be read is told in its place, the others go on. Raises
    ConfigError where `out` has predictions of something else, DataError where there is nothing to predict.
    """
    if batch < 1:
        raise ConfigError(f"batch {batch} predicts nothing; use 1 or more")
    store = open_store(str(out))
    # Before anything is written: a model that cannot be used leaves nothing behind.
    predictor = open_predictor() if crew is None else None
    plan = settle_plan(store, source, settings)
    course = _Course(plan.inputs, on_progress or (lambda progress: None))
    missing = _take_up(plan, store, course)
    if missing:
        for part, tally in _predicted(plan, missing, store, open_predictor, predictor, crew, batch, course):
            course.add(part, tally)
    summary = course.summary(str(out))
    store.write(SUMMARY_FILE, json.dumps(asdict(summary), indent=1).encode())
    return summary


def _take_up(plan: Plan, store: ObjectStore, course: _Course) -> list[Part]:
    """Count what is published already; the parts that are not."""
    published = {entry.key for entry in store.list(f"{PARTS_FOLDER}/")}
    done = [part for part in plan.parts if plan.key_of(part) in published]
    kind = plan.settings.format
    tallies = map_in_threads(
        lambda part: read_tally(store.read(plan.key_of(part)), kind), done, threads=_READERS, ahead=_READERS
    )
    for part, tally in zip(done, tallies, strict=True):
        course.take_up(part, tally)
    return [part for part in plan.parts if plan.key_of(part) not in published]


def _predicted(
    plan: Plan,
    parts: Sequence[Part],
    store: ObjectStore,
    open_predictor: Opener,
    predictor: PosePredictor | None,
    crew: Crew | None,
    batch: int,
    course: _Course,
) -> Iterator[tuple[Part, Tally]]:
    """By the model that is open here, or by workers that open it."""
    if crew is not None:
        yield from predict_on_ray(plan, parts, store.url, open_predictor, batch=batch, crew=crew)
        return
    assert predictor is not None
    with lanes_of(predictor) as lanes:
        work = PartWork(plan, store, predictor, lanes, batch=batch, on_images=course.predicted)
        yield from ((part, work(part)) for part in parts)


class _Course:
    """What has been done, now and before."""

    def __init__(self, inputs: int, tell: Callable[[Progress], None]) -> None:
        self._inputs = inputs
        self._tell = tell
        self._started_s = time.perf_counter()
        self._done = self._resumed = 0
        self._images = self._people = self._failed = 0
        self._now_images = self._shown_images = 0
        self._failures: list[str] = []

    def take_up(self, part: Part, tally: Tally) -> None:
        """It was published by an earlier run."""
        self._resumed += part.inputs
        self._count(part, tally)

    def predicted(self, images: int) -> None:
        """So many images more, of a part that is not done yet."""
        self._shown_images += images
        self._show()

    def add(self, part: Part, tally: Tally) -> None:
        """A part is done."""
        self._now_images += tally.images
        self._shown_images = self._now_images
        self._count(part, tally)
        self._show()

    def summary(self, out: str) -> PredictSummary:
        seconds = time.perf_counter() - self._started_s
        return PredictSummary(
            inputs=self._inputs,
            images=self._images,
            people=self._people,
            failed=self._failed,
            failures=tuple(self._failures),
            resumed=self._resumed,
            wall_s=round(seconds, 3),
            images_per_second=round(self._now_images / max(seconds, 1e-9), 3),
            out=out,
        )

    def _count(self, part: Part, tally: Tally) -> None:
        self._done += part.inputs
        self._images += tally.images
        self._people += tally.people
        self._failed += len(tally.failures)
        self._failures.extend(tally.failures[: _SHOWN_FAILURES - len(self._failures)])

    def _show(self) -> None:
        self._tell(
            Progress(self._done, self._inputs, self._resumed, self._shown_images, time.perf_counter() - self._started_s)
        )
