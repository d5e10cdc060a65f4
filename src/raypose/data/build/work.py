"""Making one shard: read, check, write, hash, put in place. Any process anywhere may do it, with the same bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from raypose.data.build.cut import ShardTask
from raypose.data.build.site import BuildSite, ShardReport
from raypose.data.importers.source import SourceImage
from raypose.data.manifest import Counts
from raypose.data.sample_check import check_sample
from raypose.data.shard import ShardWriter
from raypose.errors import DataError, UnsafePickleError
from raypose.structures import Sample, Skeleton

MAX_PROBLEMS = 20

_READERS = 4
"""Threads of one worker: image codecs release the interpreter's lock, and a distant store keeps all of them waiting."""


@dataclass(frozen=True, slots=True)
class ShardBuilder:
    """Everything that making a shard takes, apart from which: pickles, and travels to where the work is done."""

    site: BuildSite
    read: Callable[[SourceImage], Sample]
    skeleton: Skeleton
    classes: int

    def __call__(self, task: ShardTask) -> ShardReport:
        """Make the shard, or find it finished and whole.

        With a problem in it, the shard is not written, but its images are all looked at, up to MAX_PROBLEMS problems.
        Raises UnsafePickleError at once, and StorageError where images cannot be had or the shard cannot be stored.
        """
        if task.finished is not None:
            report = self.site.reread(task.finished)
            if report is not None:
                return report
        with self.site.staging() as folder:
            return self._make(task, folder / "shard")

    def _make(self, task: ShardTask, path: Path) -> ShardReport:
        ids: list[str] = []
        counts = Counts()
        problems: list[tuple[int, str]] = []
        with ShardWriter(path) as writer:
            for place, (sample, problem) in enumerate(self._checked(task)):
                ids.append(sample.id if sample else "")
                if sample is None:
                    problems.append((place, problem))
                elif not problems:
                    writer.add(sample)
                    counts += Counts.of(sample.people)
                if len(problems) == MAX_PROBLEMS:
                    break
        report = ShardReport(None, counts, tuple(ids), tuple(problems))
        return report if problems else self.site.finish(path, task.number, report, writer.info())

    def _checked(self, task: ShardTask) -> Iterator[tuple[Sample | None, str]]:
        """Samples in order, or None and the problem. Threads read and decode ahead."""
        waiting: deque[Future[tuple[Sample | None, str]]] = deque()
        with ThreadPoolExecutor(_READERS, thread_name_prefix="read") as pool:
            try:
                for image in task.images:
                    waiting.append(pool.submit(self._read_one, image))
                    if len(waiting) > 2 * _READERS:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _read_one(self, image: SourceImage) -> tuple[Sample | None, str]:
        try:
            sample = self.read(image)
            check_sample(sample, self.skeleton, self.classes)
        except UnsafePickleError:  # someone may be attacking: nothing more of this origin is read
            raise
        except DataError as error:
            return None, str(error)
        return sample, ""
