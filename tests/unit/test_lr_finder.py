"""The range test finds the rate at which a loss falls fastest, and takes part of a run's recipe, not of its folder."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import raypose
from raypose.cli.data import progress
from raypose.cli.root import app
from raypose.config import dump_config
from raypose.engine.lr_finder import steepest
from raypose.errors import ConfigError
from tests.data_sets import build_synthetic, tiny_run


@given(st.floats(-4.0, -1.5))
def test_the_suggestion_is_where_the_loss_falls_fastest(centre: float) -> None:
    exponents = np.linspace(-6, 0, 200)
    falls_then_explodes = 5 - 3 / (1 + np.exp(-6 * (exponents - centre))) + 10.0 ** (4 * (exponents - centre - 1.5))
    assert np.log10(steepest(10.0**exponents, falls_then_explodes)) == pytest.approx(centre, abs=0.1)


def test_a_run_is_tried_at_growing_rates_and_leaves_a_picture_alone(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data = build_synthetic(tmp_path / "data", train=24, val=2)
    config = tiny_run(data, tmp_path / "runs", "train.optimizer=SGD")
    done: list[int] = []
    test = raypose.find_learning_rate(
        config, device="cpu", steps=24, low=1e-6, high=1e3, out=tmp_path / "lr.png", progress=done.append
    )
    assert test.ran_away and len(test.rates) == len(test.losses) < 24  # nothing learns at 1000
    assert 1e-6 < test.suggestion < 10
    assert np.allclose(np.diff(np.log(test.rates)), np.log(1e9) / 23)
    assert done == list(range(1, len(done) + 1))
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "runs").exists()
    calm = raypose.find_learning_rate(config, device="cpu", steps=20, low=1e-8, high=1e-6, out=tmp_path / "lr.png")
    assert not calm.ran_away and len(calm.losses) == 20  # of a run of 6 batches


def test_the_command_counts_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PLAIN_LINE_EVERY_S", 0.0)
    recipe = tmp_path / "tiny.yaml"
    data = build_synthetic(tmp_path / "data", train=16, val=1)
    recipe.write_text(dump_config(tiny_run(data, tmp_path / "runs")))
    arguments = ["lr-find", str(recipe), "--steps=20", "--high=1e-3", "--device=cpu", f"--out={tmp_path / 'lr.png'}"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert re.search(r"growing rates: 20 of 20, [\d.]*[1-9][\d.]* batches/s", done.stderr)


@pytest.mark.parametrize(
    ("overrides", "range_of_rates", "says"),
    [
        ((), {"low": 1.0, "high": 0.1}, "exchange them"),
        (("train.optimizer=auto",), {}, "train.optimizer: auto chooses lr0"),
    ],
)
def test_what_cannot_be_tried_is_a_configuration_error(
    tmp_path: Path, overrides: tuple[str, ...], range_of_rates: dict[str, float], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        raypose.find_learning_rate(tiny_run(tmp_path, tmp_path, *overrides), **range_of_rates)
