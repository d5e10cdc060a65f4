"""Samples in, a published shard set out: all of it, or nothing."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypose.data.image_check import check_image
from raypose.data.importers.source import LabelledSource
from raypose.data.manifest import MANIFEST_KEY, Counts, Manifest, ShardInfo, write_manifest
from raypose.data.shard import ShardWriter
from raypose.errors import DataError, StorageError, UnsafePickleError
from raypose.storage import open_store
from raypose.storage.local import LocalStore
from raypose.structures import BoolArray, People, Sample, Skeleton

SHARD_BYTES = 64 << 20
MAX_PROBLEMS = 20

_STAGING = ".building-"
_SHARD_FILE = re.compile(r"shard-\d{6,}\.pkl")


def build_shard_set(
    source: LabelledSource,
    out: str,
    *,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    """Check every sample and write them, in order, as a shard set in the folder `out`.

    A shard is closed once it has `shard_bytes`. `progress` hears the number of samples written so far. Up to
    MAX_PROBLEMS problems are collected into one DataError. Until every sample is written and found well, `out` stays
    as it was, an older set in it included.
    """
    skeleton, class_names = source.skeleton, source.class_names
    store = _destination(out, overwrite)
    is_new = not store.root.exists()
    store.root.mkdir(parents=True, exist_ok=True)
    staging = _make_staging(store.root)
    writer = _SetWriter(staging, shard_bytes)
    try:
        _write_all(source.samples, skeleton, len(class_names), writer, progress or (lambda _: None))
        manifest = Manifest(skeleton, tuple(class_names), tuple(writer.finish()), writer.counts)
        if not manifest.counts.labelled:
            raise DataError(
                f"{out}: none of the {manifest.samples} images has a person with a labelled keypoint, so nothing can be"
                " learnt from them; check the labels"
            )
        _publish(store, staging, manifest)
    finally:
        writer.abandon()
        shutil.rmtree(staging, ignore_errors=True)
        if is_new and not any(store.root.iterdir()):
            store.root.rmdir()
    return manifest


@dataclass(slots=True)
class _SetWriter:
    """Deals samples out to shard files in the staging folder."""

    folder: Path
    shard_bytes: int
    counts: Counts = field(default_factory=Counts)
    shards: list[ShardInfo] = field(default_factory=list)
    current: ShardWriter | None = None

    def add(self, sample: Sample) -> None:
        if self.current is None:
            self.current = ShardWriter(self.folder / f"shard-{len(self.shards):06d}.pkl")
        self.current.add(sample)
        self.counts += Counts.of(sample.people)
        if self.current.size_bytes >= self.shard_bytes:
            self._close()

    def finish(self) -> list[ShardInfo]:
        self._close()
        return self.shards

    def abandon(self) -> None:
        if self.current is not None:
            self.current.abandon()

    def _close(self) -> None:
        if self.current is not None:
            self.current.close()
            self.shards.append(self.current.info())
            self.current = None


def _write_all(
    samples: Iterable[Sample],
    skeleton: Skeleton,
    classes: int,
    writer: _SetWriter,
    progress: Callable[[int], None],
) -> None:
    problems: list[str] = []
    seen: set[str] = set()
    for written, (sample, problem) in enumerate(_checked(samples, skeleton, classes), start=1):
        is_repeated = sample is not None and sample.id in seen
        if sample is None or problem or is_repeated:
            problems.append(problem or f"{sample.id if sample else ''}: a second sample with this id; ids must differ")
            if len(problems) == MAX_PROBLEMS:
                problems.append(f"stopped after {MAX_PROBLEMS} problems; no shard set was written")
                break
            continue
        seen.add(sample.id)
        if not problems:
            writer.add(sample)
        progress(written)
    if problems:
        raise DataError("\n".join(problems))


def _checked(samples: Iterable[Sample], skeleton: Skeleton, classes: int) -> Iterator[tuple[Sample | None, str]]:
    """Samples in order, each with the problem it has ("" for none); without sample where reading one failed.

    Threads decode ahead: image codecs release the interpreter's lock.
    """
    threads = os.cpu_count() or 1
    waiting: deque[tuple[Sample | None, Future[str]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="check") as pool:
        for sample, problem in _read(samples):
            verdict = pool.submit(_problem_of, sample, skeleton, classes) if sample else pool.submit(str, problem)
            waiting.append((sample, verdict))
            if len(waiting) > 4 * threads:
                yield _next_checked(waiting)
        while waiting:
            yield _next_checked(waiting)


def _next_checked(waiting: deque[tuple[Sample | None, Future[str]]]) -> tuple[Sample | None, str]:
    sample, verdict = waiting.popleft()
    return sample, verdict.result()


def _read(samples: Iterable[Sample]) -> Iterator[tuple[Sample | None, str]]:
    source = iter(samples)
    while True:
        try:
            yield next(source), ""
        except StopIteration:
            return
        except UnsafePickleError:  # someone may be attacking: no further file of this origin is opened
            raise
        except DataError as error:
            yield None, str(error)


def _problem_of(sample: Sample, skeleton: Skeleton, classes: int) -> str:
    try:
        if not sample.id:
            raise DataError("a sample without id; every image needs a name")
        _check_people(sample.people, sample.id, skeleton, classes)
        check_image(sample.image, sample.id, expected=(sample.width, sample.height))
    except DataError as error:
        return str(error)
    return ""


def _check_people(people: People, where: str, skeleton: Skeleton, classes: int) -> None:
    if people.keypoints_NK3.shape[1] != skeleton.keypoints:
        raise DataError(
            f"{where}: {people.keypoints_NK3.shape[1]} keypoints a person, the skeleton has {skeleton.keypoints}"
        )
    box, visibility_NK = people.box_xyxy_N4, people.keypoints_NK3[..., 2]
    area_N, class_N, ignore_N = people.area_N, people.class_N, people.ignore_N
    has_labelled_N = (visibility_NK > 0).any(axis=1)
    rules: tuple[tuple[BoolArray | np.bool_, str, NDArray[Any] | None], ...] = (
        (np.isfinite(people.keypoints_NK3).all(axis=2), "coordinates that are no finite numbers", people.keypoints_NK3),
        (np.isfinite(box).all(axis=1), "a box that is not made of finite numbers", box),
        ((box[:, 2:] > box[:, :2]).all(axis=1), "a box without positive width and height (x1 y1 x2 y2)", box),
        (np.isin(visibility_NK, (0, 1, 2)), "a visibility other than 0, 1 and 2", visibility_NK),
        ((class_N >= 0) & (class_N < classes), f"a class outside 0..{classes - 1}", class_N),
        (np.isnan(area_N) | ((area_N >= 0) & np.isfinite(area_N)), "a negative or infinite area", area_N),
        (ignore_N | ~people.crowd_N, "a crowd that is not ignored", None),
        (ignore_N | has_labelled_N, "no labelled keypoint, but not ignored", None),
    )
    for good, fault, values in rules:
        if not good.all():
            person, *keypoint = first = tuple(np.argwhere(~good)[0])
            who = ", ".join([f"person {person}", *(skeleton.names[index] for index in keypoint)])
            found = "" if values is None else f", found {_listed(values[first])}"
            raise DataError(f"{where}: {who}: {fault}{found}; correct the label")


def _listed(numbers: NDArray[Any]) -> str:
    return " ".join(f"{number:g}" for number in np.atleast_1d(numbers))


def _destination(out: str, overwrite: bool) -> LocalStore:
    store = open_store(out)
    if not isinstance(store, LocalStore):
        raise StorageError(f"{out}: shard sets are built in local folders")
    if store.root.exists() and not store.root.is_dir():
        raise StorageError(f"{out}: a file is in the way; give a folder")
    if store.exists(MANIFEST_KEY) and not overwrite:
        raise DataError(f"{out}: there is a shard set already; choose another folder, or replace it with --overwrite")
    return store


def _make_staging(root: Path) -> Path:
    """A folder to write in, on `root`'s file system, so that a rename publishes. Removes what a killed build left."""
    for leftover in root.glob(f"{_STAGING}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=_STAGING, dir=root))


def _publish(store: LocalStore, staging: Path, manifest: Manifest) -> None:
    """Move the shards into place, then write the manifest, then drop shards of an older set."""
    store.delete([MANIFEST_KEY])
    names = {shard.name for shard in manifest.shards}
    try:
        for name in sorted(names):
            (staging / name).replace(store.root / name)
        write_manifest(store, manifest)
    except BaseException:
        store.delete(names)
        raise
    store.delete(
        path.name for path in store.root.iterdir() if _SHARD_FILE.fullmatch(path.name) and path.name not in names
    )
