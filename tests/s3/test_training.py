"""Training under Ray with the run in a bucket, also while the bucket is away."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

import raypose
from raypose import api
from raypose.errors import ConfigError
from raypose.storage import open_store
from raypose.telemetry import CheckpointSaved, Event
from tests.data_sets import tiny_run
from tests.s3.conftest import below
from tests.s3.proxy import line_to
from tests.s3.servers import missing_ceph_programs

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def s3_endpoint(request: pytest.FixtureRequest) -> str:
    """One server is enough here: the real one where it can be had."""
    return str(request.getfixturevalue("moto_endpoint" if missing_ceph_programs() else "rgw_endpoint"))


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("cluster")
def test_a_run_in_a_bucket_trains_through_an_outage_resumes_and_validates(
    s3_endpoint: str, s3_url: str, data: Path
) -> None:
    with line_to(s3_endpoint) as line:
        storage = below(s3_url, "runs", endpoint_url=line.endpoint)
        config = tiny_run(data, Path("unused"), f"storage={storage}", "scaling.workers=2", "scaling.cpus_per_worker=1")

        def cut_for_a_while(event: Event) -> None:
            if isinstance(event, CheckpointSaved) and event.step == 6:
                line.cut()
                threading.Timer(8, line.restore).start()

        summary = raypose.train(config, report=cut_for_a_while)
        run = open_store(summary["folder"])
        assert run.url == below(storage, "tiny")
        keys = {entry.key for entry in run.list()}
        assert {"config.yaml", "metrics.jsonl", "results.csv", "summary.json", "report/index.html"} <= keys
        assert {"weights/best.pt", "weights/last.pt", "checkpoints/step-00000012/state.json"} <= keys
        assert not any(key.startswith("ray/") for key in keys)
        with pytest.raises(ConfigError, match=r"there is a run of this name already.*train --resume 's3://"):
            raypose.train(config)
        again = raypose.train(api.run_config(run.url, ["scaling.workers=1", "scaling.virtual_workers=2"]), resume=True)
        assert (again["steps"], again["folder"]) == (12, run.url)
        evaluation = raypose.validate(run.url, out=below(s3_url, "report"))
        assert evaluation.metrics["pose_ap50"] == pytest.approx(
            json.loads(run.read("summary.json"))["best"]["pose_ap50"]
        )
        assert open_store(s3_url).exists("report/index.html")
