"""Options that contradict each other are refused, and words on the command line mean what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import raypose
from raypose.cli.data.build import _runner
from raypose.cli.root import app
from raypose.cli.serve import settings_of
from raypose.config.serve_schema import load_serve_config
from raypose.data.build import LocalProcesses
from raypose.errors import ConfigError, StorageError
from tests.served_run import add_checkpoint


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("tune --resume runs/s --continue", "--continue goes with a sweep file"),
        ("tune sweep.yaml --check --continue", "--check starts nothing"),
        ("val runs/a --data shards --split train", "--split chooses among the data of the run"),
        ("submit --follow a-job --name another", "leave them out with --follow"),
        ("submit --follow a-job --no-wait", "leave them out with --follow"),
        ("submit --include notes.txt --follow a-job", "leave them out with --follow"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(words: str, message: str) -> None:
    refusal = CliRunner().invoke(app, words.split()).exception
    assert isinstance(refusal, ConfigError)
    assert message in str(refusal)


@pytest.mark.parametrize(
    ("words", "model", "port"),
    [
        (
            ["s3://poses/runs/a?endpoint_url=http://10.0.0.1:9000"],
            "s3://poses/runs/a?endpoint_url=http://10.0.0.1:9000",
            8000,
        ),
        (["runs/lr=0.1"], "runs/lr=0.1", 8000),
        (["2024", "http.port=9000"], "2024", 9000),
        (["model=runs/a", "http.port=9000"], "runs/a", 9000),
    ],
)
def test_the_first_word_of_serve_is_a_model_unless_it_is_a_setting(words: list[str], model: str, port: int) -> None:
    config = load_serve_config(None, settings_of(words, port=None, host=None))
    assert (config.model, config.http.port) == (model, port)


def test_options_of_serve_win_over_its_words() -> None:
    config = load_serve_config(None, settings_of(["runs/a", "http.port=9000"], port=0, host="0.0.0.0"))
    assert (config.http.port, config.http.host) == (0, "0.0.0.0")


@pytest.mark.parametrize("address", ["", "local"])
def test_a_ray_address_that_names_no_cluster_leaves_a_build_to_this_process(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert isinstance(_runner(workers=1, ray=None), LocalProcesses)


def test_a_report_that_a_ray_job_could_not_keep_is_refused_before_anything_is_predicted(
    data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs/a"
    add_checkpoint(run, 4, seed=1, pose_ap=0.5)
    heard: list[int] = []
    job = tmp_path / "runtime_resources/working_dir_files/_ray_pkg_0a1b"
    with pytest.raises(StorageError, match=r"out: .*working directory of a Ray job"):
        raypose.validate(run, data=str(data / "val"), out=job / "report", progress=lambda done, _: heard.append(done))
    assert heard == []
