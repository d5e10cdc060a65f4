"""However often training is killed, and with however many workers it goes on: the samples of one uninterrupted worker.

A life is what happens between a start and a kill. It begins at the last step that was saved, its workers share out the
lanes anew, and what it did after its own last save is done again by the next one.
"""

from __future__ import annotations

import ast
import random
import tempfile
import time
import zlib
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypose.config.schema import AugmentConfig
from raypose.data.cache import NodeCache
from raypose.data.loader import TrainLoader
from raypose.data.manifest import Counts, Manifest, write_manifest
from raypose.data.plan import Plan
from raypose.data.shard import ShardWriter
from raypose.data.shard_set import ShardSet
from raypose.data.synth import synthesize
from raypose.engine.world import World
from raypose.storage.local import LocalStore
from raypose.structures import COCO_PERSON, Batch
from tests.forked import forking
from tests.remote_store import RemoteStore

SAMPLES = list(synthesize(24, seed=1, size_px=64))
EPOCHS = 2

Fingerprint = tuple[str, int]
"""A sample's id, and a checksum of its image as it was augmented."""
Step = tuple[Fingerprint, ...]
"""All samples of a global batch, in order of lanes."""


@dataclass(frozen=True)
class Recipe:
    seed: int
    micro_batch: int
    lanes: int
    window: int

    def loader(self, shards: ShardSet, world: World, start_step: int, loader_workers: int = 0) -> TrainLoader:
        batch = self.lanes * self.micro_batch
        plan = Plan(shards.shard_sizes, seed=self.seed, batch=batch, lanes=self.lanes, window=self.window)
        return TrainLoader(
            shards, plan, world.lanes(self.lanes), AugmentConfig(close_mosaic=1), imgsz=32, seed=self.seed,
            epochs=EPOCHS, start_step=start_step, end_step=plan.steps_of(EPOCHS), loader_workers=loader_workers,
            kind="threads",
        )  # fmt: skip


@dataclass(frozen=True)
class Life:
    """So many workers make `steps` steps until they are killed; the last `unsaved` of them are lost with them."""

    workers: int
    steps: int
    unsaved: int
    loader_workers: int


def write_shards(folder: Path, sizes: Sequence[int]) -> Manifest:
    folder.mkdir(parents=True)
    waiting = iter(SAMPLES)
    infos = []
    for number, size in enumerate(sizes):
        with ShardWriter(folder / f"shard-{number:06d}.pkl") as writer:
            for sample in islice(waiting, size):
                writer.add(sample)
        infos.append(writer.info())
    manifest = Manifest(COCO_PERSON, ("person",), tuple(infos), Counts())
    write_manifest(LocalStore(folder), manifest)
    return manifest


def fingerprints(batches: Sequence[Batch]) -> Step:
    return tuple(
        (name, zlib.crc32(image.tobytes()))
        for batch in batches
        for name, image in zip(batch.ids, batch.image_B3HW, strict=True)
    )


def uninterrupted(folder: Path, recipe: Recipe) -> list[Step]:
    """What one worker reads from the local folder."""
    return [fingerprints(batches) for batches in recipe.loader(ShardSet.open(str(folder)), World(), 0)]


def live(shards: ShardSet, recipe: Recipe, life: Life, start_step: int) -> list[Step]:
    """The steps that are made until the kill, or until training is over."""
    with ExitStack() as killed:
        workers = []
        for rank in range(life.workers):
            loader = recipe.loader(shards, World(rank, life.workers), start_step, life.loader_workers)
            workers.append(killed.enter_context(closing(iter(loader))))  # type: ignore[type-var]
        together = zip(*workers, strict=True)
        return [sum(map(fingerprints, parts), ()) for parts in islice(together, life.steps)]


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    return Recipe(
        draw(st.integers(0, 2**40)), draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 12))
    )


@st.composite
def shard_sizes(draw: st.DrawFn) -> list[int]:
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    return sizes[: next(count for count in range(len(sizes), 0, -1) if sum(sizes[:count]) <= len(SAMPLES))]


LIVES = st.builds(
    Life, st.integers(1, 4), steps=st.integers(0, 12), unsaved=st.integers(0, 4), loader_workers=st.sampled_from([0, 2])
)


@settings(max_examples=40)
@given(recipes(), shard_sizes(), st.lists(LIVES, max_size=4), st.floats(0.2, 1.2))
def test_any_history_of_kills_and_worker_counts_has_the_sequence_of_one_uninterrupted_worker(
    recipe: Recipe, sizes: list[int], history: list[Life], cache_of_set: float
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "far")
        manifest = write_shards(folder, sizes)
        expected = uninterrupted(folder, recipe)
        largest, total = (of(shard.size_bytes for shard in manifest.shards) for of in (max, sum))
        # It stays from life to life, as it does on a node.
        cache = NodeCache(Path(scratch, "cache"), max(largest, int(cache_of_set * total)))
        shards = ShardSet(RemoteStore(folder, Path(scratch, "log")), manifest, cache)
        sequence: list[Step] = []
        for life in history:
            capable = Life(min(life.workers, recipe.lanes), life.steps, life.unsaved, life.loader_workers)
            made = live(shards, recipe, capable, start_step=len(sequence))
            sequence += made[: max(0, len(made) - life.unsaved)]
        sequence += live(shards, recipe, Life(1, len(expected), 0, 0), start_step=len(sequence))
        assert sequence == expected


RECIPE = Recipe(seed=3, micro_batch=2, lanes=3, window=5)


@pytest.mark.parametrize("seed", range(2))
def test_processes_killed_at_any_moment_leave_a_cache_and_a_sequence_that_go_on(seed: int, tmp_path: Path) -> None:
    """Each worker is a process, which writes down a step once it has it and so may die at any point of the next one."""
    manifest = write_shards(tmp_path / "far", [4] * 6)
    largest = max(shard.size_bytes for shard in manifest.shards)
    store = RemoteStore(tmp_path / "far", tmp_path / "log", delay_s=0.02)
    shards = ShardSet(store, manifest, NodeCache(tmp_path / "cache", 3 * largest))
    expected = uninterrupted(tmp_path / "far", RECIPE)
    chance = random.Random(seed)
    sequence: list[Step] = []
    for number, workers in enumerate(chance.sample([1, 2, 3], 3)):
        notes = tmp_path / f"life-{number}"
        notes.mkdir()
        _live_until_killed(shards, notes, workers, len(sequence), chance)
        sequence += _saved_by_all(notes, workers)
        assert sequence == expected[: len(sequence)]
    sequence += live(shards, RECIPE, Life(2, len(expected), 0, 0), start_step=len(sequence))
    assert sequence == expected
    assert not list((tmp_path / "cache" / "fetching").iterdir()), "what was killed half-way is gone"


def _live_until_killed(shards: ShardSet, notes: Path, workers: int, start_step: int, chance: random.Random) -> None:
    """All workers until all of them have begun and a moment has passed."""
    context = forking()
    in_step = context.Barrier(workers)
    processes = [
        context.Process(target=_work, args=(shards, notes / str(rank), World(rank, workers), start_step, in_step))
        for rank in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        while not all((notes / str(rank)).exists() for rank in range(workers)):
            assert all(process.exitcode in (None, 0) for process in processes)
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.3))
    finally:
        for process in processes:
            process.kill()
            process.join()


def _work(shards: ShardSet, notes: Path, world: World, start_step: int, in_step: Barrier) -> None:
    with notes.open("w") as file:
        for batches in RECIPE.loader(shards, world, start_step):
            file.write(f"{fingerprints(batches)!r}\n")
            file.flush()
            in_step.wait()  # as for each other's gradients
            time.sleep(0.05)


def _saved_by_all(notes: Path, workers: int) -> list[Step]:
    """The steps that every worker has finished; a last line may be torn."""
    told = [
        [line for line in (notes / str(rank)).read_text().splitlines(keepends=True) if line.endswith("\n")]
        for rank in range(workers)
    ]
    return [sum(map(ast.literal_eval, lines), ()) for lines in zip(*told, strict=False)]
