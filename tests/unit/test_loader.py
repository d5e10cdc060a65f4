from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raypose.config.schema import AugmentConfig
from raypose.data.loader import TrainLoader
from raypose.data.manifest import Counts, Manifest, write_manifest
from raypose.data.plan import Plan
from raypose.data.reader import read_images
from raypose.data.shard import ShardWriter
from raypose.data.shard_set import ShardSet
from raypose.data.threads import map_in_threads
from raypose.errors import DataError
from raypose.storage.local import LocalStore
from raypose.structures import Batch, People, Sample, Skeleton
from raypose.vision.decode import decode_rgb

SKELETON = Skeleton(names=("left", "right"), flip_pairs=((0, 1),))
EPOCHS = 3
LANES = 4


def sample(number: int, *, damaged: bool = False) -> Sample:
    rng = np.random.default_rng(number)
    width, height = (int(side) for side in rng.integers(60, 300, 2))
    noise = rng.integers(0, 256, (6, 8, 3), np.uint8)
    content = cv2.imencode(".jpg", cv2.resize(noise, (width, height)))[1].tobytes()
    box = np.array([[0.1, 0.2, 0.8, 0.9]], np.float32) * [width, height, width, height]
    keypoints = np.array([[[0.3, 0.3, 2], [0.6, 0.6, 1]]], np.float32) * [width, height, 1]
    people = People(
        box.astype(np.float32),
        keypoints.astype(np.float32),
        np.zeros(1, np.int64),
        np.full(1, np.nan, np.float32),
        np.zeros(1, np.bool_),
        np.zeros(1, np.bool_),
    )
    return Sample(f"picture-{number}", b"damaged" if damaged else content, width, height, people)


def write_shards(folder: Path, samples: Sequence[Sample], per_shard: int = 5) -> ShardSet:
    folder.mkdir(parents=True)
    infos = []
    for number, first in enumerate(range(0, len(samples), per_shard)):
        with ShardWriter(folder / f"shard-{number:06d}.pkl") as writer:
            for item in samples[first : first + per_shard]:
                writer.add(item)
        infos.append(writer.info())
    counts = sum((Counts.of(item.people) for item in samples[1:]), Counts.of(samples[0].people))
    write_manifest(LocalStore(folder), Manifest(SKELETON, ("person",), tuple(infos), counts))
    return ShardSet.open(str(folder))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_shards(tmp_path_factory.mktemp("data") / "shards", [sample(number) for number in range(22)])


def make_loader(shards: ShardSet, lanes: Sequence[int] = range(LANES), **changes: Any) -> TrainLoader:
    plan = Plan(shards.shard_sizes, seed=11, batch=8, lanes=LANES, window=6)
    settings: dict[str, Any] = {
        "augment": AugmentConfig(close_mosaic=1),
        "imgsz": 64,
        "seed": 11,
        "epochs": EPOCHS,
        "start_step": 0,
        "end_step": plan.steps_of(EPOCHS),
    }
    settings.update(changes)
    return TrainLoader(shards, plan, lanes, **settings)


def assert_same(found: Batch, expected: Batch) -> None:
    assert found.ids == expected.ids
    for name in ("image_B3HW", "class_N", "box_cxcywh_N4", "keypoints_NK3", "image_index_N"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_batches_have_the_layout_that_the_model_reads(shards: ShardSet) -> None:
    loader = make_loader(shards)
    steps = list(loader)
    assert len(steps) == len(loader) == 9
    for batch in (batch for step in steps for batch in step):
        assert batch.image_B3HW.shape == (2, 3, 64, 64)
        assert batch.image_B3HW.dtype == np.uint8
        assert batch.box_cxcywh_N4.dtype == batch.keypoints_NK3.dtype == np.float32
        assert batch.class_N.dtype == batch.image_index_N.dtype == np.int64
        assert len(batch.class_N) == len(batch.box_cxcywh_N4) == len(batch.keypoints_NK3) == len(batch.image_index_N)
    assert {name for step in steps for batch in step for name in batch.ids} == {f"picture-{n}" for n in range(22)}


@pytest.mark.parametrize("start_step", [1, 4, 8])
def test_a_restart_at_any_step_yields_exactly_the_remaining_batches(shards: ShardSet, start_step: int) -> None:
    uninterrupted = list(make_loader(shards))[start_step:]
    for found, expected in zip(make_loader(shards, start_step=start_step), uninterrupted, strict=True):
        for lane in range(LANES):
            assert_same(found[lane], expected[lane])


def test_lanes_yield_the_same_batches_however_workers_share_them(shards: ShardSet) -> None:
    together = make_loader(shards)
    apart = [make_loader(shards, lanes) for lanes in ([3], [0, 2], [1])]
    for expected, ((three,), (zero, two), (one,)) in zip(together, zip(*apart, strict=True), strict=True):
        for lane, found in enumerate((zero, one, two, three)):
            assert_same(found, expected[lane])


class WatchedSet(ShardSet):
    """Notes what it is told to fetch ahead."""

    @contextmanager
    def reading_ahead(self, upcoming: Callable[[int], Iterable[int]]) -> Iterator[Callable[[int], None]]:
        self.upcoming = upcoming
        yield lambda _: None


@pytest.mark.parametrize(("start_step", "end_step"), [(0, 9), (4, 5), (8, 9)])
def test_nothing_is_fetched_ahead_for_steps_after_the_last(shards: ShardSet, start_step: int, end_step: int) -> None:
    plan = Plan(shards.shard_sizes, seed=11, batch=8, lanes=LANES, window=6)
    watched = WatchedSet(LocalStore(Path(shards.url)), shards.manifest)
    list(make_loader(watched, [1, 3], start_step=start_step, end_step=end_step))
    ahead = list(itertools.islice(watched.upcoming(start_step), 1000))
    needed = [plan.shards_needed(step, lane) for step in range(start_step, end_step) for lane in (1, 3)]
    assert set(ahead) == frozenset().union(*needed) and len(ahead) < 1000


@pytest.mark.parametrize(
    ("kind", "loader_workers", "batches_ahead"),
    [("threads", 1, 1), ("threads", 3, "auto"), ("threads", 2, 16), ("processes", 2, "auto"), ("processes", 2, 1)],
)
def test_threads_and_processes_change_nothing(
    shards: ShardSet, kind: str, loader_workers: int, batches_ahead: int | str
) -> None:
    here = make_loader(shards)
    there = make_loader(shards, kind=kind, loader_workers=loader_workers, batches_ahead=batches_ahead)
    for expected, found in zip(here, there, strict=True):
        for lane in range(LANES):
            assert_same(found[lane], expected[lane])
    assert there.images_read == here.images_read


@pytest.mark.parametrize("hand_over", ["pictures", "pixels", "files"])
def test_threads_that_share_the_images_of_a_batch_change_nothing(tmp_path: Path, hand_over: str) -> None:
    damaged = write_shards(tmp_path / "shards", [sample(number, damaged=number % 11 == 7) for number in range(22)])
    settings = {"hand_over": hand_over, "max_bad_fraction": 0.9}
    alone, shared = make_loader(damaged, **settings), make_loader(damaged, threads=3, **settings)
    for expected, found in zip(alone, shared, strict=True):
        for lane in range(LANES):
            if isinstance(found[lane], Batch):
                assert_same(found[lane], expected[lane])
            else:
                assert_same(found[lane].labels, expected[lane].labels)
                assert np.array_equal(found[lane].content, expected[lane].content)
    assert (shared.images_read, shared.bad_images) == (alone.images_read, alone.bad_images)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("raypose-loader")]


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_a_batch_stays_as_it_was_while_later_ones_are_made(shards: ShardSet, kind: str) -> None:
    kept = list(make_loader(shards, kind=kind, loader_workers=2, end_step=6))
    for expected, found in zip(make_loader(shards, end_step=6), kept, strict=True):
        assert_same(found[0], expected[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory belongs to a GPU")
@pytest.mark.parametrize(("kind", "loader_workers"), [("threads", 0), ("threads", 2), ("processes", 2)])
def test_pinned_batches_are_the_same_and_can_be_copied_while_the_program_goes_on(
    shards: ShardSet, kind: str, loader_workers: int
) -> None:
    pinned = make_loader(shards, kind=kind, loader_workers=loader_workers, pin_memory=True)
    for expected, found in zip(make_loader(shards), pinned, strict=True):
        image_B3HW = torch.from_numpy(found[0].image_B3HW)
        assert image_B3HW.is_pinned()
        on_device = image_B3HW.to("cuda", non_blocking=True)
        assert np.array_equal(on_device.cpu().numpy(), expected[0].image_B3HW)


@given(items=st.integers(0, 40), threads=st.integers(1, 4), ahead=st.integers(1, 8))
def test_threads_keep_the_order_and_never_run_further_ahead_than_they_may(items: int, threads: int, ahead: int) -> None:
    begun = itertools.count()
    taken = 0
    furthest = 0

    def work(item: int) -> int:
        nonlocal furthest
        furthest = max(furthest, next(begun) + 1 - taken)
        return item * item

    found = []
    for result in map_in_threads(work, range(items), threads=threads, ahead=ahead):
        found.append(result)
        taken += 1
    assert found == [item * item for item in range(items)]
    assert furthest <= ahead + 1  # and the one that is being taken


def test_threads_raise_an_error_in_its_place_and_are_gone_then() -> None:
    made = map_in_threads(lambda item: 1 // (3 - item), range(9), threads=2, ahead=4)
    assert [next(made), next(made), next(made)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(made)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("raypose-loader")]


def test_samples_are_read_in_the_order_asked_for_with_their_images(shards: ShardSet) -> None:
    places = [3, 21, 0, 7, 7]
    found = list(read_images(shards, places, ahead=2))
    assert [sample.id for sample, _ in found] == [f"picture-{place}" for place in places]
    for sample, image in found:
        assert np.array_equal(image, decode_rgb(sample.image, "expected"))
        assert image.shape == (sample.height, sample.width, 3)


def test_an_image_that_cannot_be_read_in_order_is_named(tmp_path: Path) -> None:
    damaged = write_shards(tmp_path / "shards", [sample(number, damaged=number == 7) for number in range(9)])
    images = read_images(damaged, range(9))
    assert [next(images)[0].id for _ in range(7)] == [f"picture-{number}" for number in range(7)]
    with pytest.raises(DataError, match=r"shard-000001\.pkl, sample 'picture-7': .*do not decode"):
        next(images)


def test_the_last_epochs_have_no_mosaic(shards: ShardSet) -> None:
    plain = AugmentConfig(mosaic=1, close_mosaic=1, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)
    people = [
        np.bincount(batch.image_index_N, minlength=len(batch)).tolist()
        for step in make_loader(shards, augment=plain)
        for batch in step
    ]
    in_order = [count for counts in people for count in counts]
    images_with_mosaic = 22 * (EPOCHS - 1)
    assert set(in_order[-8:]) == {1}
    assert max(in_order[: images_with_mosaic - 8]) > 1
    never = make_loader(shards, augment=plain.model_copy(update={"close_mosaic": EPOCHS}))
    assert all(len(batch.class_N) == len(batch) for step in never for batch in step)
    assert never.images_read == 9 * 8


def test_an_image_that_does_not_decode_ends_the_run_by_name(tmp_path: Path) -> None:
    samples = [sample(number, damaged=number == 7) for number in range(22)]
    with pytest.raises(DataError, match=r"shard-000001\.pkl, sample 'picture-7': .*max_bad_fraction allows 0"):
        list(make_loader(write_shards(tmp_path / "shards", samples)))


def test_an_error_from_a_thread_or_process_is_the_same_single_line(tmp_path: Path) -> None:
    samples = [sample(number, damaged=True) for number in range(22)]
    damaged = write_shards(tmp_path / "shards", samples)
    messages = []
    for loader_workers, kind, threads in ((0, "auto", 1), (0, "auto", 2), (2, "threads", 1), (1, "processes", 1)):
        with pytest.raises(DataError) as caught:
            list(make_loader(damaged, loader_workers=loader_workers, kind=kind, threads=threads))
        messages.append(str(caught.value))
    assert len(set(messages)) == 1
    assert "\n" not in messages[0]


def test_tolerated_bad_images_are_counted_and_replaced_alike_after_a_restart(tmp_path: Path) -> None:
    samples = [sample(number, damaged=number % 11 == 7) for number in range(22)]
    damaged = write_shards(tmp_path / "shards", samples)
    loader = make_loader(damaged, max_bad_fraction=0.5)
    uninterrupted = list(loader)
    assert 0 < loader.bad_images < loader.images_read / 2
    used = {name for step in uninterrupted for batch in step for name in batch.ids}
    assert used == {f"picture-{number}" for number in range(22) if number % 11 != 7}
    for found, expected in zip(
        make_loader(damaged, max_bad_fraction=0.5, start_step=5), uninterrupted[5:], strict=True
    ):
        for lane in range(LANES):
            assert_same(found[lane], expected[lane])


def test_more_bad_images_than_allowed_end_the_run(tmp_path: Path) -> None:
    samples = [sample(number, damaged=number % 2 == 0) for number in range(22)]
    with pytest.raises(DataError, match=r"images are bad, data\.max_bad_fraction allows 0\.25"):
        list(make_loader(write_shards(tmp_path / "shards", samples), max_bad_fraction=0.25))


def test_an_image_of_another_size_than_its_labels_is_bad(tmp_path: Path) -> None:
    good = sample(0)
    wrong = Sample("turned", good.image, good.width + 9, good.height, good.people)
    with pytest.raises(DataError, match=rf"'turned': decodes to .*labels are for {good.width + 9}x{good.height}"):
        list(make_loader(write_shards(tmp_path / "shards", [wrong] * 8)))
