"""What `raypose submit` sends along, and what it refuses to send."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raypose.cli.root import app
from raypose.config import load_config
from raypose.errors import ConfigError, TrainingError
from raypose.submit import job
from raypose.submit.job import Cluster
from raypose.submit.pack import pack

RUN = "storage: s3://poses/runs\ndata: {train: s3://poses/sets/train, val: s3://poses/sets/val}\n"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/run.yaml").write_text(RUN)
    (tmp_path / "here/holiday.jpg").write_bytes(b"nobody asked for it")
    return tmp_path / "here"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job").mkdir()
    return tmp_path / "job"


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_travels_as_one_complete_file_and_nothing_else(here: Path, folder: Path) -> None:
    words = pack(["train", "run.yaml", "train.epochs=7", "--continue"], (), here, folder)
    assert words == ["train", "run.yaml", "--continue"]
    assert names(folder) == {"run.yaml"}
    assert load_config(folder / "run.yaml") == load_config(here / "run.yaml", ["train.epochs=7"])


def test_code_of_the_user_that_the_run_names_travels_with_it(here: Path, folder: Path) -> None:
    (here / "announce.py").write_text("def announce(event): ...\n")
    (here / "judges/__pycache__").mkdir(parents=True)
    (here / "judges/strict.py").write_text("class Strict: ...\n")
    (here / "judges/__pycache__/strict.pyc").write_bytes(b"")
    own = (
        "telemetry: {callbacks: [{use: 'announce:announce'}]}\n"
        "val: {validators: [{use: 'judges.strict:Strict'}, {use: pck_report}]}\n"
    )
    (here / "run.yaml").write_text(RUN + own)
    pack(["train", "run.yaml"], (), here, folder)
    assert names(folder) == {"run.yaml", "announce.py", "judges/strict.py"}


def test_a_sweep_travels_with_the_run_that_it_varies(here: Path, folder: Path) -> None:
    (here / "sweep.yaml").write_text(
        "name: s\nstorage: s3://poses/sweeps\nbase: run.yaml\nspace: {train.lr0: {loguniform: [0.001, 0.1]}}\n"
        "budget: {trials: 4}\noverrides: {train.optimizer: SGD}\n"
    )
    assert pack(["tune", "sweep.yaml", "--continue"], (), here, folder) == ["tune", "sweep.yaml", "--continue"]
    assert names(folder) == {"sweep.yaml", "base.yaml"}

    from raypose.tune.checks import load_sweep

    assert load_sweep(folder / "sweep.yaml").base.train.optimizer == "SGD"


SWEEP = """\
name: s
storage: s3://poses/sweeps
base: run.yaml
space: {train.pose: {choice: [12.0, 24.0]}}
budget: {trials: 4}
"""
LOCAL_RUN = RUN.replace("s3://poses/sets/train", "sets/train")


def test_the_data_of_a_sweep_are_those_that_its_overrides_leave(here: Path, folder: Path) -> None:
    (here / "run.yaml").write_text(LOCAL_RUN)
    (here / "sweep.yaml").write_text(SWEEP)
    with pytest.raises(ConfigError, match=r"data\.train: sets/train is a folder of this machine"):
        pack(["tune", "sweep.yaml"], (), here, folder)
    (here / "sweep.yaml").write_text(SWEEP + "overrides: {data.train: s3://poses/sets/train}\n")
    assert pack(["tune", "sweep.yaml"], (), here, folder) == ["tune", "sweep.yaml"]

    (here / "run.yaml").write_text(RUN)
    (here / "sweep.yaml").write_text(SWEEP + "overrides: {data.train: sets/train}\n")
    with pytest.raises(ConfigError, match=r"data\.train: sets/train is a folder of this machine"):
        pack(["tune", "sweep.yaml"], (), here, folder)


@pytest.mark.parametrize("key", ["data.train", "data.val", "model.pretrained"])
def test_places_that_a_sweep_chooses_from_are_checked_like_those_of_a_run(here: Path, folder: Path, key: str) -> None:
    choice = SWEEP.replace("train.pose: {choice: [12.0, 24.0]}", f"{key}: {{choice: [s3://poses/a, sets/b]}}")
    (here / "sweep.yaml").write_text(choice)
    with pytest.raises(ConfigError) as caught:
        pack(["tune", "sweep.yaml"], (), here, folder)
    assert caught.value.problems == [
        f"{here}/sweep.yaml:4: space.{key}: sets/b is a folder of this machine; jobs need s3:// URLs, or absolute paths"
        " that all nodes see"
    ]
    (here / "sweep.yaml").write_text(choice.replace("sets/b", "/mnt/sets/b"))
    assert pack(["tune", "sweep.yaml"], (), here, folder) == ["tune", "sweep.yaml"]


def test_an_earlier_sweep_on_this_machine_is_refused(here: Path, folder: Path) -> None:
    (here / "sweep.yaml").write_text(SWEEP + "searcher: {use: tpe}\nwarm_start: [runs/earlier]\n")
    with pytest.raises(ConfigError, match="warm_start: runs/earlier is a folder of this machine"):
        pack(["tune", "sweep.yaml"], (), here, folder)


def test_code_that_the_overrides_of_a_sweep_name_travels_with_it(here: Path, folder: Path) -> None:
    (here / "judges.py").write_text("class Strict: ...\n")
    (here / "sweep.yaml").write_text(SWEEP + "overrides: {val.validators: [{use: 'judges:Strict'}]}\n")
    pack(["tune", "sweep.yaml"], (), here, folder)
    assert names(folder) == {"sweep.yaml", "base.yaml", "judges.py"}


def test_what_only_the_cluster_needs_is_not_asked_of_this_machine(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (here / "sweep.yaml").write_text(SWEEP + "searcher: {use: tpe}\n")
    assert pack(["tune", "sweep.yaml"], (), here, folder) == ["tune", "sweep.yaml"]


@pytest.mark.parametrize("command", ["lr-find", "batch-find"])
def test_commands_that_try_a_run_travel_with_its_file(here: Path, folder: Path, command: str) -> None:
    (here / "run.yaml").write_text(RUN.replace("s3://poses/runs", "runs"))  # where they write nothing
    words = pack([command, "run.yaml", "train.optimizer=SGD"], (), here, folder)
    assert words == [command, "run.yaml"]
    assert load_config(folder / "run.yaml").train.optimizer == "SGD"
    with pytest.raises(ConfigError, match=r"data\.train: sets/train is a folder of this machine"):
        pack([command, "run.yaml", "data.train=sets/train"], (), here, folder)


class Refusing:
    """A cluster's dashboard that answers every job with an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def submit_job(self, **_: object) -> str:
        raise self.error

    def get_job_info(self, _: str) -> None:
        raise self.error


TAKEN = (
    "Request failed with status code 500: Traceback (most recent call last):\n"
    '  File "job_manager.py", line 554, in submit_job\n'
    "ValueError: Job with submission_id x already exists. Please use a different submission_id.\n."
)
NO_AGENT = "Request failed with status code 500: No available agent to submit job, please try again later.."


@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (RuntimeError(TAKEN), ConfigError, "--name x: http://head:8265 has a job of this name; choose another"),
        (RuntimeError(NO_AGENT), TrainingError, "takes no job: .*No available agent"),
        (ConnectionError("reset by peer"), TrainingError, "cannot talk to the cluster: reset by peer"),
    ],
)
def test_a_job_that_a_cluster_does_not_take_is_one_line(
    error: Exception, kind: type[Exception], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_connect", lambda address: Refusing(error))
    with pytest.raises(kind, match=line) as caught:
        Cluster("http://head:8265").submit(["runs", "list"], (), "x")
    assert "\n" not in str(caught.value)


def test_a_cluster_that_is_lost_before_its_log_is_followed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_connect", lambda address: Refusing(ConnectionError("reset by peer")))
    with pytest.raises(TrainingError, match="cannot talk to the cluster: reset by peer"):
        Cluster("http://head:8265").follow("x", print, print)


class Unstoppable:
    """A cluster whose job is followed until Ctrl-C, and which cannot stop it."""

    def get_job_info(self, _: str) -> None: ...

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        raise KeyboardInterrupt
        yield

    def stop_job(self, _: str) -> None:
        raise RuntimeError("Request failed with status code 500: the agent is gone.")


def test_a_job_that_cannot_be_stopped_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_connect", lambda address: Unstoppable())
    with pytest.raises(TrainingError, match=r"cannot talk to the cluster: .*the agent is gone"):
        Cluster("http://head:8265").follow("x", print, print)


def test_commands_about_this_machine_are_not_for_a_cluster() -> None:
    for words in (["config", "check", "run.yaml"], ["serve", "serve.yaml"]):
        refusal = CliRunner().invoke(app, ["submit", *words]).exception
        assert isinstance(refusal, ConfigError)
        assert str(refusal) == f"submit {words[0]}: is no command for a cluster"


def test_other_commands_travel_with_what_is_included(here: Path, folder: Path) -> None:
    words = ["predict", "s3://poses/images", "--model", "s3://poses/runs/a"]
    assert pack(words, [Path("holiday.jpg")], here, folder) == words
    assert names(folder) == {"holiday.jpg"}


def test_an_included_file_does_not_take_the_place_of_the_configuration(here: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--include run\.yaml: .*leave yours out"):
        pack(["train", "run.yaml", "train.epochs=7"], [Path("run.yaml")], here, folder)


def test_two_included_files_of_one_name_are_refused(here: Path, folder: Path) -> None:
    (here / "other").mkdir()
    (here / "other/holiday.jpg").touch()
    with pytest.raises(ConfigError, match=r"a second holiday\.jpg"):
        pack(["runs", "list"], [Path("holiday.jpg"), Path("other/holiday.jpg")], here, folder)


def test_code_may_be_included_that_the_run_names_anyway(here: Path, folder: Path) -> None:
    (here / "announce.py").write_text("def announce(event): ...\n")
    (here / "run.yaml").write_text(RUN + "telemetry: {callbacks: [{use: 'announce:announce'}]}\n")
    pack(["train", "run.yaml"], [Path("announce.py")], here, folder)
    assert names(folder) == {"run.yaml", "announce.py"}


@pytest.mark.parametrize("key", ["storage", "data.train", "data.val", "model.pretrained"])
def test_a_folder_of_this_machine_is_refused(here: Path, folder: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: somewhere/here is a folder of this machine"):
        pack(["train", "run.yaml", f"{key}=somewhere/here"], (), here, folder)


def test_a_run_of_settings_alone_is_checked_and_travels_like_one_of_a_file(here: Path, folder: Path) -> None:
    settings = ["storage=s3://poses/runs", "data.train=s3://poses/sets/train", "data.val=s3://poses/sets/val"]
    assert pack(["train", *settings, "--continue"], (), here, folder) == ["train", "run.yaml", "--continue"]
    assert load_config(folder / "run.yaml") == load_config(None, settings)
    with pytest.raises(ConfigError, match=r"data\.val"):
        pack(["train", *settings[:2], "data.val=sets/val"], (), here, folder)


def test_two_files_of_one_run_are_refused_before_anything_is_sent(here: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"one YAML file at a time, found run\.yaml and other\.yaml"):
        pack(["train", "run.yaml", "other.yaml"], (), here, folder)


def test_a_mistake_in_the_configuration_is_found_before_anything_is_sent(here: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean train\.epochs"):
        pack(["train", "run.yaml", "train.epoch=7"], (), here, folder)
    assert names(folder) == set()


def test_a_run_that_has_its_configuration_in_storage_needs_no_file(here: Path, folder: Path) -> None:
    words = ["train", "--resume", "s3://poses/runs/a", "train.patience=5"]
    assert pack(words, (), here, folder) == words
    assert names(folder) == set()


def test_a_missing_inclusion_is_named(here: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.py: cannot be sent along"):
        pack(["val", "s3://poses/runs/a"], [Path("nothing.py")], here, folder)
