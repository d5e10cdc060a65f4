"""Callbacks and trackers: who else hears a run, and what becomes of it when they fail."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pytest

from raypose.config import RunConfig, load_config
from raypose.errors import ConfigError, RunInterruptedError, TrainingError
from raypose.storage import open_store
from raypose.telemetry import Event, Notice, RunFinished, RunStopped
from raypose.telemetry.listeners import reporting
from tests.unit.test_telemetry import STARTED, epoch, steps

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring.md"
FINISHED = RunFinished({"steps": 8, "best": {"pose_ap": 0.5, "epoch": 1, "box_ap": None}})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to start raypose in, where modules of one's own lie."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run_config(*overrides: str) -> RunConfig:
    return load_config(None, ["data.train=a", "data.val=b", "name=demo", *overrides])


def tell(config: RunConfig, folder: Path, *events: Event) -> list[Event]:
    """What the terminal hears."""
    heard: list[Event] = []
    with reporting(config, open_store(str(folder)), heard.append) as report:
        for event in events:
            report(event)
    return heard


def test_the_callback_of_the_guide_writes_a_line_for_each_epoch(here: Path) -> None:
    section = MONITORING.read_text().split("## Callbacks")[1]
    code = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    assert len(code.splitlines()) < 15
    (here / "announce.py").write_text(code)
    config = run_config('telemetry.callbacks=[{"use": "announce:announce", "args": {"path": "lines.txt"}}]')
    events = [STARTED, steps(2), epoch(1, 4), FINISHED]
    assert tell(config, here, *events) == events
    assert (here / "lines.txt").read_text() == "epoch 1: pose AP 0.250\nRunFinished\n"


def test_a_class_is_made_once_with_its_args(here: Path) -> None:
    (here / "counting.py").write_text(
        "class Count:\n"
        "    def __init__(self, start): self.count = start\n"
        "    def __call__(self, event):\n"
        "        self.count += 1\n"
        "        open('count.txt', 'w').write(str(self.count))\n"
    )
    tell(run_config('telemetry.callbacks=[{"use": "counting:Count", "args": {"start": 40}}]'), here, STARTED, steps(2))
    assert (here / "count.txt").read_text() == "42"


def test_a_callback_that_fails_is_a_note_and_the_run_goes_on(here: Path) -> None:
    (here / "broken_one.py").write_text("def call(event):\n    raise ValueError('no such room')\n")
    config = run_config('telemetry.callbacks=[{"use": "broken_one:call"}]')
    heard = tell(config, here, STARTED, steps(2), steps(4))
    assert [event for event in heard if not isinstance(event, Notice)] == [STARTED, steps(2), steps(4)]
    assert [event.text for event in heard if isinstance(event, Notice)] == [
        "broken_one:call: ValueError: no such room (broken_one.py:2); the run goes on without it",
        "broken_one:call: failed at 3 of 3 events",
    ]


def test_all_callbacks_that_cannot_be_had_are_named_before_the_run(here: Path) -> None:
    (here / "takes_none.py").write_text("def call(): pass\n")
    config = run_config('telemetry.callbacks=[{"use": "no_such:call"}, {"use": "slack"}, {"use": "takes_none:call"}]')
    with pytest.raises(ConfigError) as caught:
        tell(config, here)
    missing, unknown, unfit = caught.value.problems
    assert missing.startswith("telemetry.callbacks[0]: no_such:call cannot be imported: ModuleNotFoundError")
    assert unknown.startswith("telemetry.callbacks[1]: no callback is called 'slack' (known are none)")
    assert unfit.startswith("telemetry.callbacks[2]: takes_none:call: is no callback for these args")


@pytest.mark.parametrize(
    ("error", "interrupted"), [(TrainingError("step 7: loss"), False), (RunInterruptedError("stopped"), True)]
)
def test_listeners_hear_that_a_run_has_failed_or_was_interrupted(
    here: Path, error: Exception, *, interrupted: bool
) -> None:
    heard: list[Event] = []
    with pytest.raises(type(error)), reporting(run_config(), open_store(str(here)), heard.append):
        raise error
    assert heard == [RunStopped(str(error), interrupted)]


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_a_tracker_whose_package_is_missing_is_an_error_of_the_configuration(
    here: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as Python remembers what is not there
    message = rf"telemetry.{package}: the package {package} is not installed; pip install 'raypose\[{package}\]'"
    with pytest.raises(ConfigError, match=message):
        tell(run_config(f"telemetry.{package}={{}}"), here)


def test_mlflow_holds_settings_figures_and_report_and_a_resumed_run_goes_on_in_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="needs raypose[mlflow]")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = open_store(str(here / "runs/demo"))
    store.write("report/index.html", b"<p>good</p>")
    uri = (here / "mlruns").as_uri()
    config = run_config(f'telemetry.mlflow={{"tracking_uri": "{uri}", "experiment": "poses"}}', "train.epochs=7")
    with pytest.raises(TrainingError), reporting(config, store, [].append) as report:
        for event in (STARTED, steps(2)):
            report(event)
        raise TrainingError("lost")
    assert tell(config, here / "runs/demo", STARTED, steps(4), epoch(1, 4), FINISHED)[1:] != []

    client = tracking.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("poses").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.epochs"] == "7"
    assert run.data.tags["raypose.workers"] == "2"
    assert run.data.metrics["val/pose_ap"] == 0.25
    assert run.data.metrics["best/pose_ap"] == 0.5
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/box_loss")] == [2, 4, 4]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "report")] == ["report/index.html"]


def test_weights_and_biases_offline_holds_settings_figures_and_report(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs raypose[wandb]")
    monkeypatch.setenv("WANDB_DIR", str(here))
    store = open_store(str(here / "runs/demo"))
    store.write("report/index.html", b"<p>good</p>")
    config = run_config('telemetry.wandb={"project": "poses", "mode": "offline"}', "train.epochs=7")
    assert tell(config, here / "runs/demo", STARTED, steps(2), epoch(1, 4), FINISHED) == [
        STARTED, steps(2), epoch(1, 4), FINISHED,
    ]  # fmt: skip
    (log,) = (here / "wandb").glob("offline-run-*/run-*.wandb")
    expected = {b"train.epochs", b"val/pose_ap", b"best/pose_ap", b"images_per_second", b"index.html"}
    deadline_s = time.monotonic() + 60.0
    while missing := {word for word in expected if word not in log.read_bytes()}:
        # A process of W&B's own writes the file, and goes on doing so for a moment after the run has ended.
        assert time.monotonic() < deadline_s, missing
        time.sleep(0.2)


def test_parameters_are_every_setting_by_its_key() -> None:
    from raypose.telemetry.tracking import parameters_of

    parameters = parameters_of(run_config("train.lr0=0.5"))
    assert parameters["train.lr0"] == 0.5
    assert parameters["val.validators"] == "[]"
    assert json.dumps(parameters)
