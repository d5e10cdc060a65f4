"""What `raypose submit` sends along, and what it refuses to send."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypose.config import load_config
from raypose.errors import ConfigError
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


def test_other_commands_travel_with_what_is_included(here: Path, folder: Path) -> None:
    words = ["predict", "s3://poses/images", "--model", "s3://poses/runs/a"]
    assert pack(words, [Path("holiday.jpg")], here, folder) == words
    assert names(folder) == {"holiday.jpg"}


@pytest.mark.parametrize("key", ["storage", "data.train", "data.val", "model.pretrained"])
def test_a_folder_of_this_machine_is_refused(here: Path, folder: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: somewhere/here is a folder of this machine"):
        pack(["train", "run.yaml", f"{key}=somewhere/here"], (), here, folder)


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
