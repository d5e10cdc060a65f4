"""Two workers under Ray, data and run in a bucket, and everything at once that goes wrong there."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import pytest
import torch

import raypose
from raypose.config import RunConfig
from raypose.storage import open_store
from raypose.telemetry import Event, RunStarted, StepsDone
from tests.data_sets import build_synthetic, newest_checkpoint, tiny_run
from tests.s3.conftest import below
from tests.s3.downloads import kill_who_downloads
from tests.s3.faulty_proxy import Fault, FaultyProxy, some_of_all
from tests.s3.servers import Server

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DOWN_S = 2.0


@pytest.fixture(scope="module")
def s3_endpoint(server: Server) -> str:
    return server.endpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_synthetic(tmp_path_factory.mktemp("data"), shard_bytes=16 * 1024)


def run_of(data: str, val: str, storage: str, *overrides: str) -> RunConfig:
    return tiny_run(
        Path("unused"), Path("unused"), f"data.train={data}", f"data.val={val}", f"storage={storage}", *overrides,
        "scaling.workers=2", "scaling.cpus_per_worker=1", "checkpoint.every_steps=3",
        "telemetry.log_every_steps=1", "val.every_epochs=2",
    )  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("cluster")
def test_two_workers_end_with_the_bits_of_an_undisturbed_run_whatever_happened_meanwhile(
    data: Path, server: Server, proxy: FaultyProxy, s3_url: str, tmp_path: Path
) -> None:
    expected = raypose.train(run_of(f"{data}/train", f"{data}/val", str(tmp_path)))
    for path in sorted(data.rglob("*.*")):
        open_store(s3_url).upload(path, path.relative_to(data).as_posix())
    places = [below(s3_url, key, endpoint_url=proxy.endpoint) for key in ("train", "val", "runs")]
    cache = tmp_path / "cache"
    config = run_of(*places, f"data.cache_dir={cache}", "data.cache_bytes=100000")
    events: list[Event] = []
    actions: list[threading.Thread] = []
    killed: list[int] = []

    def disturb(event: Event) -> None:
        events.append(event)
        step = event.step if isinstance(event, StepsDone) else -1
        if step == 4 and len(actions) == 0:
            server.kill()
            actions.append(threading.Timer(DOWN_S, server.revive))
            actions[-1].start()
        if step == 7 and len(actions) == 1:
            actions.append(threading.Thread(target=lambda: killed.append(kill_who_downloads(cache, psutil.Process()))))
            actions[-1].start()

    proxy.choose = some_of_all(0.3)
    summary = raypose.train(config, report=disturb)
    for action in actions:
        action.join()
    assert killed, "a worker was killed in the middle of a download"
    assert summary["status"] == "completed"
    assert [isinstance(event, RunStarted) for event in events].count(True) == 2
    assert all(proxy.injected[fault] > 10 for fault in (Fault.REFUSED, Fault.SLOW, Fault.CUT))
    found, undisturbed = newest_checkpoint(summary["folder"]), newest_checkpoint(expected["folder"])
    assert found.progress.step == undisturbed.progress.step == 12
    different = [name for name, tensor in undisturbed.tensors.items() if not torch.equal(found.tensors[name], tensor)]
    assert different == []
