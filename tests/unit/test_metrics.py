"""What Prometheus scrapes from a run, read as Prometheus would: over HTTP, by the format's parser."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from raypose.config import load_config
from raypose.errors import ConfigError
from raypose.storage import open_store
from raypose.telemetry import CheckpointSaved, Event, Notice, RunFinished, WorkersFailed
from raypose.telemetry.listeners import reporting
from raypose.telemetry.metric_table import METRICS
from raypose.telemetry.metrics import RunMetrics, serving
from tests.unit.test_telemetry import STARTED, epoch, steps

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring.md"
SAVED = CheckpointSaved(4, "checkpoints/step-00000004", 0.5, True, blocked_seconds=0.25, bad_images=2)

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(url: str) -> Values:
    """Every sample by its name and its labels besides `run`."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    values: Values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels["run"] == "demo"
            labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "run"))
            values[sample.name, labels] = sample.value
    return values


def scrape_after(*events: Event) -> Values:
    metrics = RunMetrics("demo")
    for event in events:
        metrics(event)
    with serving(metrics, "127.0.0.1", 0) as url:
        return scrape(url)


def test_a_scrape_tells_where_the_run_is_how_fast_and_what_its_time_goes_to() -> None:
    values = scrape_after(STARTED, steps(2), steps(4), epoch(1, 4), SAVED)
    assert values["raypose_train_step", ()] == 4
    assert values["raypose_train_steps_planned", ()] == 8
    assert values["raypose_workers", ()] == 2
    assert values["raypose_train_samples_total", ()] == 64
    assert values["raypose_data_images_total", ()] == 256
    assert values["raypose_train_step_seconds_count", ()] == 4
    assert values["raypose_train_step_seconds_sum", ()] == pytest.approx(2.0)
    assert values["raypose_train_step_seconds_bucket", (("le", "0.5"),)] == 2
    assert values["raypose_train_data_wait_seconds_total", ()] == pytest.approx(0.2)
    assert values["raypose_train_sync_seconds_total", ()] == pytest.approx(0.4)
    assert values["raypose_checkpoint_blocked_seconds_total", ()] == 0.25
    assert values["raypose_data_bad_images_total", ()] == 2
    assert values["raypose_train_loss", (("loss", "box_loss"),)] == 1.5
    assert values["raypose_train_learning_rate", (("group", "2"),)] == 0.3
    assert values["raypose_val_metric", (("metric", "pose_ap"),)] == 0.25
    assert values["raypose_run_finished", ()] == 0


def test_every_metric_of_the_table_is_exposed_and_nothing_else() -> None:
    metrics = RunMetrics("demo")
    for event in (STARTED, steps(4), epoch(1, 4), SAVED, WorkersFailed("worker_lost", "killed"), STARTED):
        metrics(event)
    metrics(RunFinished({}))
    exposed = {family.name for family in metrics.registry.collect() if family.samples}
    assert exposed == {metric.name.removesuffix("_total") for metric in METRICS}


@given(st.lists(st.sampled_from(["steps", "epoch", "saved", "restart", "resumed"]), max_size=30))
def test_counters_never_go_back_over_restarts_of_the_workers(story: list[str]) -> None:
    metrics = RunMetrics("demo")
    told: dict[str, Event] = {
        "steps": steps(2),
        "epoch": epoch(1, 4),
        "saved": SAVED,
        "restart": WorkersFailed("node_lost", "gone"),
        "resumed": replace(STARTED, start_step=2, workers=1),
    }
    before: dict[tuple[str, str], float] = {}
    for chapter in story:
        metrics(told[chapter])
        now = {
            (sample.name, str(sample.labels)): sample.value
            for family in metrics.registry.collect()
            if family.type in ("counter", "histogram")
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
        assert all(now[key] >= value for key, value in before.items())
        before = now


def test_restarts_are_counted_by_their_cause() -> None:
    again = replace(STARTED, start_step=4, workers=1)
    values = scrape_after(STARTED, steps(6), WorkersFailed("node_lost", "gone"), again, again)
    assert values["raypose_restarts_total", (("cause", "node_lost"),)] == 1
    assert values["raypose_restarts_total", (("cause", "unknown"),)] == 1
    assert values["raypose_restarts_total", (("cause", "preempted"),)] == 0, "the first one has to be seen as growth"
    assert values["raypose_workers", ()] == 1
    assert values["raypose_train_step", ()] == 4


def test_the_age_of_the_checkpoint_grows_until_the_next_is_durable() -> None:
    now_s = 100.0
    metrics = RunMetrics("demo", clock=lambda: now_s)
    with serving(metrics, "127.0.0.1", 0) as url:
        now_s = 130.0
        assert scrape(url)["raypose_checkpoint_age_seconds", ()] == 30
        metrics(SAVED)
        now_s = 131.5
        assert scrape(url)["raypose_checkpoint_age_seconds", ()] == 1.5


def test_a_configured_run_says_where_to_scrape_and_stops_answering_when_it_ends(tmp_path: Path) -> None:
    config = load_config(None, ["data.train=a", "data.val=b", "name=demo", "telemetry.prometheus_port=0"])
    heard: list[Event] = []
    with reporting(config, open_store(str(tmp_path)), heard.append) as report:
        report(STARTED)
        assert isinstance(heard[0], Notice)
        url = heard[0].text.split()[-1]
        assert scrape(url)["raypose_train_steps_planned", ()] == 8
    assert heard[1:] == [STARTED]
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=10)


def test_a_port_that_is_taken_is_an_error_of_the_configuration() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = f"telemetry.prometheus_port: cannot listen on 127.0.0.1:{port}: .*; choose another port"
        with pytest.raises(ConfigError, match=message), serving(RunMetrics("demo"), "127.0.0.1", port):
            pass


def test_the_guide_lists_every_metric_as_it_is() -> None:
    rows = re.findall(r"^\| `(raypose_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", MONITORING.read_text(), re.MULTILINE)
    assert rows == [
        (metric.name, metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
        for metric in METRICS
    ]
