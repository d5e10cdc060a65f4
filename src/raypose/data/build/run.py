"""The build itself: plan it, have it done, look at what came back, publish or clean up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from raypose.data.build.cut import SHARD_BYTES, ShardTask, cut_into_shards, digest_of
from raypose.data.build.runners import InProcess, Runner, in_order
from raypose.data.build.site import BuildSite, ShardReport, shard_files
from raypose.data.build.work import MAX_PROBLEMS, ShardBuilder
from raypose.data.importers.source import LabelledSource, Progress
from raypose.data.manifest import MANIFEST_KEY, Counts, Manifest, ShardInfo, read_manifest, write_manifest
from raypose.errors import DataError, RayposeError, StorageError
from raypose.storage import ObjectStore, open_store, require_lasting
from raypose.storage.local import LocalStore


def build_shard_set(
    source: LabelledSource,
    out: str,
    *,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    runner: Runner | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Manifest:
    """Check every sample and write them, in order, as a shard set in `out`, a folder or an `s3://` URL.

    The bytes depend on the source and `shard_bytes` alone, not on `runner` (one shard after another, here, by default).
    Up to MAX_PROBLEMS problems are collected into one DataError; after one, or Ctrl-C, `out` is as it was before.
    Killed, or stopped by storage that failed, the same call goes on where it was, and `say` hears of it. Until the
    manifest takes its place, an older set in `out` can be read.
    """
    store = _destination(out, overwrite)
    is_new = isinstance(store, LocalStore) and not store.root.exists()
    site = BuildSite(store, digest_of(source, shard_bytes))
    tasks = _take_up(site, cut_into_shards(source.images, shard_bytes), say or (lambda _: None))
    try:
        findings = _do(site, source, tasks, runner or InProcess(), progress or (lambda *_: None))
        manifest = findings.manifest(source, out)
        _publish(site, manifest)
    except (DataError, KeyboardInterrupt):
        site.clear(keep=_named_shards(store))
        if is_new and isinstance(store, LocalStore):
            with contextlib.suppress(OSError):  # somebody else has put something there
                store.root.rmdir()
        raise
    except RayposeError as error:
        raise type(error)(f"{error}; finished shards are kept, and the same command goes on from there") from error
    site.clear(keep=_named_shards(store))
    return manifest


def _do(
    site: BuildSite, source: LabelledSource, tasks: list[ShardTask], runner: Runner, progress: Progress
) -> _Findings:
    findings = _Findings()
    builder = ShardBuilder(site, source.read, source.skeleton, len(source.class_names))
    with contextlib.closing(runner.run(builder, tasks)) as results:
        for report in in_order(_heard(results, tasks, progress)):
            findings.add(report)
    return findings


@dataclass(slots=True)
class _Findings:
    """What all reports say together, added in the order of the set."""

    shards: list[ShardInfo] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    seen: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def add(self, report: ShardReport) -> None:
        problems = dict(report.problems)
        for place, sample_id in enumerate(report.ids):
            if sample_id in self.seen:
                problems[place] = f"{sample_id}: a second sample with this id; ids must differ"
            elif sample_id:
                self.seen.add(sample_id)
        self.problems += [problems[place] for place in sorted(problems)]
        if len(self.problems) >= MAX_PROBLEMS:
            last = f"stopped after {MAX_PROBLEMS} problems; no shard set was written"
            raise DataError("\n".join([*self.problems[:MAX_PROBLEMS], last]))
        if report.shard is not None:
            self.shards.append(report.shard)
            self.counts += report.counts

    def manifest(self, source: LabelledSource, out: str) -> Manifest:
        """The table of contents; DataError if there were problems, or if nothing can be learnt from the whole."""
        if self.problems:
            raise DataError("\n".join(self.problems))
        manifest = Manifest(source.skeleton, tuple(source.class_names), tuple(self.shards), self.counts)
        if not self.counts.labelled:
            raise DataError(
                f"{out}: none of the {manifest.samples} images has a person with a labelled keypoint, so nothing can be"
                " learnt from them; check the labels"
            )
        return manifest


def _destination(out: str, overwrite: bool) -> ObjectStore:
    store = open_store(out)
    require_lasting(store, "out")
    # Then: it says in one line what keeps a folder from being looked into.
    if store.exists(MANIFEST_KEY) and not overwrite:
        raise DataError(f"{out}: there is a shard set already; choose another place, or replace it with --overwrite")
    if isinstance(store, LocalStore) and store.root.exists() and not store.root.is_dir():
        raise StorageError(f"{out}: a file is in the way; give a folder")
    return store


def _named_shards(store: ObjectStore) -> frozenset[str]:
    """Shards that the manifest names which lies in the store now: they stay, whatever else goes."""
    if not store.exists(MANIFEST_KEY):
        return frozenset()
    try:
        return frozenset(shard.name for shard in read_manifest(store).shards)
    except DataError:  # of another version of raypose, or damaged: perhaps of use to somebody, so nothing goes yet
        return frozenset(shard_files(store))


def _take_up(site: BuildSite, tasks: list[ShardTask], say: Callable[[str], None]) -> list[ShardTask]:
    """Clear away other unfinished builds, and mark the tasks that this one has finished before."""
    dropped = site.drop_others(keep=_named_shards(site.store))
    if dropped:
        say(f"removed {dropped} shards of an unfinished build with other images or settings; this one starts anew")
    finished = site.finished()
    if finished:
        say(f"going on: {len(finished)} of {len(tasks)} shards are finished; each is compared with its digest")
    return [replace(task, finished=finished.get(task.number)) for task in tasks]


def _heard(
    results: Iterable[tuple[int, ShardReport]], tasks: list[ShardTask], progress: Progress
) -> Iterator[tuple[int, ShardReport]]:
    images = size_bytes = 0
    for index, report in results:
        images += len(tasks[index].images)
        size_bytes += tasks[index].size_bytes
        progress(images, size_bytes)
        yield index, report


def _publish(site: BuildSite, manifest: Manifest) -> None:
    """Write the manifest, over an older one perhaps, once every shard is seen in its place."""
    found = shard_files(site.store)
    for shard in manifest.shards:
        if found.get(shard.name) != shard.size_bytes:
            place = site.store.place(shard.name)
            raise StorageError(
                f"{place}: {found.get(shard.name, 'no')} bytes there, expected {shard.size_bytes};"
                " workers on several machines need a folder that all of them share, or an s3:// URL"
            )
    write_manifest(site.store, manifest)
