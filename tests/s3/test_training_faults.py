"""Runs that read and keep everything in a bucket while things go wrong: the same samples, and the same bits at the end.

The engine runs in this process, so that what each step was trained on can be seen; test_training_on_ray.py has the
same with real workers.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raypose.checkpoint import CheckpointStore, Snapshot
from raypose.config import RunConfig
from raypose.config.s3_url import S3Location
from raypose.data.manifest import read_manifest
from raypose.engine.loop import run
from raypose.engine.setup import prepare
from raypose.engine.step import StepResult, TrainStep
from raypose.engine.world import World
from raypose.errors import ShardCorruptError, StorageError
from raypose.storage import open_store
from raypose.structures import Batch
from raypose.telemetry import Event, Notice, StepsDone
from tests.data_sets import build_synthetic, tiny_run
from tests.s3.conftest import below
from tests.s3.faulty_proxy import Choice, Fault, FaultyProxy, Request, some_of_all
from tests.s3.servers import Server

STEPS = 12
SMALL_CACHE_BYTES = 100_000
"""Less than half of the training set, so shards are fetched again and again until the run ends."""


@dataclass(frozen=True)
class Trained:
    """What each step of this start was trained on, and what was saved last."""

    ids: dict[int, tuple[str, ...]]
    events: list[Event]
    snapshot: Snapshot

    def same_bits(self, other: Trained) -> bool:
        return set(self.snapshot.tensors) == set(other.snapshot.tensors) and all(
            torch.equal(tensor, other.snapshot.tensors[name]) for name, tensor in self.snapshot.tensors.items()
        )


class Observed:
    """A training step that notes which samples it is given."""

    def __init__(self, step: TrainStep, ids: dict[int, tuple[str, ...]]) -> None:
        self._step = step
        self._ids = ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    def __call__(self, step: int, micro_batches: Sequence[Batch], updates: int) -> StepResult:
        self._ids[step] = tuple(name for batch in micro_batches for name in batch.ids)
        return self._step(step, micro_batches, updates)


def train(config: RunConfig, after_step: Callable[[int], None] = lambda _: None) -> Trained:
    """Start or continue the run, to its end; `after_step` hears of every step."""
    store = open_store(config.storage).child(config.name)
    ids: dict[int, tuple[str, ...]] = {}
    events: list[Event] = []

    def report(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepsDone):
            after_step(event.step)

    torch.set_num_threads(1)
    parts = prepare(config, World(), store, report)
    run(replace(parts, train_step=Observed(parts.train_step, ids)), report)  # type: ignore[arg-type]
    latest = CheckpointStore(store).load_latest(pytest.fail)
    assert latest is not None
    return Trained(ids, events, latest)


def run_of(data: Path, storage: Path | str, *overrides: str) -> RunConfig:
    always = ["scaling.virtual_workers=2", "telemetry.log_every_steps=1", "checkpoint.every_steps=3"]
    return tiny_run(data, Path("unused"), f"storage={storage}", *always, *overrides)


def run_in(url: str, tmp_path: Path, *overrides: str, endpoint: str) -> RunConfig:
    """The same run with data and storage below `url`, reached at `endpoint`, and with a cache of its own."""
    places = {key: below(url, key, endpoint_url=endpoint) for key in ("train", "val", "runs")}
    return run_of(
        Path("unused"), places["runs"], f"data.train={places['train']}", f"data.val={places['val']}",
        f"data.cache_dir={tmp_path / 'cache'}", f"data.cache_bytes={SMALL_CACHE_BYTES}", *overrides,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many small shards, so that most steps have something to fetch."""
    return build_synthetic(tmp_path_factory.mktemp("data"), shard_bytes=16 * 1024)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The run as it goes from local folders."""
    return train(run_of(data, tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def s3_endpoint(server: Server) -> str:
    return server.endpoint


@pytest.fixture
def url(data: Path, s3_url: str) -> str:
    """A place of its own in the bucket, with the shard sets `train` and `val`."""
    store = open_store(s3_url)
    for path in sorted(data.rglob("*.*")):
        store.upload(path, path.relative_to(data).as_posix())
    return s3_url


def test_a_run_goes_on_when_its_server_is_killed_and_started_again(
    server: Server, url: str, undisturbed: Trained, tmp_path: Path
) -> None:
    down_s = 3.0
    waiting: list[threading.Timer] = []

    def kill_twice(step: int) -> None:
        if step in (2, 8):
            server.kill()
            waiting.append(threading.Timer(down_s, server.revive))
            waiting[-1].start()

    started_s = time.monotonic()
    found = train(run_in(url, tmp_path, endpoint=server.endpoint), kill_twice)
    for revival in waiting:
        revival.join()
    assert time.monotonic() - started_s > 2 * down_s, "both times the run had to wait"
    assert len(waiting) == 2
    assert found.ids == undisturbed.ids
    assert found.same_bits(undisturbed)


def test_a_third_of_all_answers_refused_slow_or_cut_off_changes_nothing(
    proxy: FaultyProxy, url: str, undisturbed: Trained, tmp_path: Path
) -> None:
    config = run_in(url, tmp_path, endpoint=proxy.endpoint)
    proxy.choose = some_of_all(0.3)
    found = train(config)
    assert found.ids == undisturbed.ids
    assert found.same_bits(undisturbed)
    assert all(proxy.injected[fault] > 10 for fault in (Fault.REFUSED, Fault.SLOW, Fault.CUT))
    assert 0.2 < sum(proxy.injected.values()) / proxy.requests < 0.4


def first_answers_with(name: str, count: int) -> Choice:
    """A bit is flipped in the first `count` answers that carry this object."""
    left = [count]

    def choose(request: Request) -> Fault | None:
        if request.method != "GET" or name not in request.path or left[0] == 0:
            return None
        left[0] -= 1
        return Fault.FLIPPED

    return choose


def test_a_bit_that_flips_on_its_way_is_fetched_again(
    proxy: FaultyProxy, url: str, undisturbed: Trained, tmp_path: Path
) -> None:
    name = read_manifest(open_store(below(url, "train"))).shards[3].name
    proxy.choose = first_answers_with(name, 1)
    found = train(run_in(url, tmp_path, endpoint=proxy.endpoint))
    assert proxy.injected == {Fault.FLIPPED: 1}
    assert found.ids == undisturbed.ids
    assert found.same_bits(undisturbed)


def test_a_bit_that_flipped_in_the_bucket_ends_the_run_with_the_shards_name_until_it_is_mended(
    url: str, s3_endpoint: str, undisturbed: Trained, tmp_path: Path
) -> None:
    config = run_in(url, tmp_path, endpoint=s3_endpoint)
    train_set = open_store(below(url, "train"))
    name = read_manifest(train_set).shards[3].name
    sound = train_set.read(name)
    train_set.write(name, sound[:300] + bytes([sound[300] ^ 1]) + sound[301:])
    with pytest.raises(ShardCorruptError, match=rf"{name}.*: sha256 .*, manifest says .*fetched 2 times") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    train_set.write(name, sound)
    resumed = train(config)
    assert resumed.ids == {step: ids for step, ids in undisturbed.ids.items() if step in resumed.ids}
    assert resumed.same_bits(undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", folder], check=False).returncode:
        pytest.skip("mounting a small tmpfs needs privileges")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # shards of it may still be mapped


def test_a_cache_disk_that_runs_full_ends_the_run_with_one_line_until_there_is_room(
    small_disk: Path, url: str, s3_endpoint: str, undisturbed: Trained, tmp_path: Path
) -> None:
    on_small_disk = (f"data.cache_dir={small_disk / 'cache'}", "data.cache_bytes=1GiB")
    config = run_in(url, tmp_path, *on_small_disk, endpoint=s3_endpoint)
    with pytest.raises(StorageError, match=r"disk of the node cache is full: .+ need.* [\d,]+ are free") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert "data.cache_bytes" in str(caught.value) and "data.cache_dir" in str(caught.value)
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    resumed = train(config)
    assert resumed.ids == {step: ids for step, ids in undisturbed.ids.items() if step in resumed.ids}
    assert resumed.same_bits(undisturbed)


def test_a_server_that_stays_away_ends_the_run_with_one_line_and_what_was_saved_counts(
    proxy: FaultyProxy, url: str, undisturbed: Trained, tmp_path: Path
) -> None:
    impatient = replace(S3Location.parse(url), deadline_s=1.0).url
    config = run_in(impatient, tmp_path, endpoint=proxy.endpoint)

    def lose_the_server(step: int) -> None:
        if step == 7:
            proxy.choose = lambda _: Fault.REFUSED

    with pytest.raises(StorageError, match=r"s3://\S+: cannot (read|write|list): .*tried for 1 s") as caught:
        train(config, lose_the_server)
    assert "\n" not in str(caught.value)
    proxy.choose = lambda _: None
    resumed = train(config)
    # The checkpoint of step 6 was perhaps still on its way when the server went.
    begin = min(resumed.ids)
    assert begin in (3, 6)
    assert resumed.ids == {step: undisturbed.ids[step] for step in range(begin, STEPS)}
    assert resumed.same_bits(undisturbed)
    assert not any(isinstance(event, Notice) and "damaged" in event.text for event in resumed.events)
