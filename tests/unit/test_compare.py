"""Runs side by side: what is said to differ, what is called best, and what is not compared in silence."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raypose import api
from raypose.cli.root import app
from raypose.config import dump_config, load_config
from raypose.engine.run_records import read_run, read_runs
from raypose.errors import CheckpointError, ConfigError
from raypose.evaluate.compare_page import render_comparison
from raypose.evaluate.run_comparison import RunRecord, compare_runs

RUN = RunRecord(
    name="first",
    url="/runs/first",
    status="completed",
    settings={"name": "first", "train.lr0": "0.01", "data.val": "val"},
    metrics={"pose_ap": 0.5, "keypoint_error_px": 9.0, "person_ece": 0.2, "images": 8.0, "mine.rate": 1.0},
    history=[{"kind": "val", "epoch": e, "seconds": 60.0 * e, "val/pose_ap": 0.1 * e} for e in (1, 2, 3)],
)
OTHER = replace(
    RUN,
    name="second",
    url="/runs/second",
    settings={"name": "second", "train.lr0": "0.02", "data.val": "val", "train.new": "1"},
    metrics={"pose_ap": 0.6, "keypoint_error_px": 10.0, "person_ece": 0.1, "images": 8.0, "mine.rate": 2.0},
)


def write_run(
    folder: Path, *, lr0: float = 0.01, summary: dict[str, Any] | None = None, ap: tuple[float, ...] = ()
) -> Path:
    recipe = folder.parent / f"{folder.name}.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text("data: {train: shards, val: shards}\n")
    config = load_config(recipe, [f"name={folder.name}", f"storage={folder.parent}", f"train.lr0={lr0}"])
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_config(config))
    rows = [
        {"kind": "val", "step": 10 * e, "epoch": e, "seconds": 5.0 * e, "train/pose_loss": 1 / e, "val/pose_ap": value}
        for e, value in enumerate(ap, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def finished(ap: float) -> dict[str, Any]:
    best = {"epoch": 2, "step": 20, "pose_ap": ap, "pose_ap_l": None}
    return {"status": "completed", "best": best, "images_per_second": 80.5, "train_seconds": 90.0}


def test_only_settings_that_differ_are_shown() -> None:
    assert compare_runs([RUN, OTHER]).settings == {"train.lr0": ("0.01", "0.02"), "train.new": ("-", "1")}


def test_the_best_is_marked_where_more_or_less_is_better() -> None:
    assert compare_runs([RUN, OTHER]).best == {
        "pose_ap": (1,),
        "keypoint_error_px": (0,),
        "person_ece": (1,),
        "images": (),
        "mine.rate": (),
    }


def test_equals_are_all_the_best_and_nobody_is_where_all_are_equal() -> None:
    third = replace(OTHER, url="/runs/third", metrics={**OTHER.metrics, "keypoint_error_px": 9.0})
    best = compare_runs([RUN, OTHER, third]).best
    assert best["pose_ap"] == (1, 2)
    assert best["keypoint_error_px"] == (0, 2)
    assert compare_runs([RUN, replace(RUN, url="/again")]).best["pose_ap"] == ()


def test_a_metric_that_one_run_lacks_is_undefined_there_and_never_best() -> None:
    comparison = compare_runs([RUN, replace(OTHER, metrics={})])
    assert math.isnan(comparison.metrics["pose_ap"][1])
    assert comparison.best["pose_ap"] == ()
    assert "second has not been validated yet" in comparison.notes


def test_runs_that_were_measured_on_different_images_say_so() -> None:
    other = replace(OTHER, settings={**OTHER.settings, "data.val": "other"}, metrics={**OTHER.metrics, "images": 9.0})
    (note,) = compare_runs([RUN, other]).notes
    assert note.startswith("data.val, images differ")


@pytest.mark.parametrize("runs", [[RUN], [RUN, RUN]])
def test_fewer_than_two_runs_are_refused(runs: list[RunRecord]) -> None:
    with pytest.raises(ConfigError, match="two different runs"):
        compare_runs(runs)


def test_a_finished_run_is_read_from_its_summary(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", summary=finished(0.75), ap=(0.1, 0.2)))
    assert (run.name, run.status, run.metrics, run.best_epoch) == ("a", "completed", {"pose_ap": 0.75}, 2)
    assert (run.images_per_second, run.train_seconds) == (80.5, 90.0)
    assert run.settings["train.lr0"] == "0.01"


def test_a_run_under_way_counts_with_its_best_epoch_so_far(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", ap=(0.1, 0.4, 0.3)))
    assert (run.status, run.metrics, run.best_epoch, run.train_seconds) == ("not finished", {"pose_ap": 0.4}, 2, 15.0)


def test_a_run_may_be_named_by_its_weights(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", ap=(0.1,))
    (folder / "weights").mkdir()
    (folder / "weights" / "best.pt").write_bytes(b"")
    assert read_run(folder / "weights" / "best.pt").name == "a"


def test_runs_of_one_name_are_told_apart_by_their_places(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / "one" / "a"), write_run(tmp_path / "two" / "a")])
    assert [run.name for run in runs] == [str(tmp_path / "one" / "a"), str(tmp_path / "two" / "a")]


def test_a_folder_without_a_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing: no run there"):
        read_run(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["{", "[]", '{"best": 3}'])
def test_a_damaged_summary_is_refused_by_name(tmp_path: Path, text: str) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "summary.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"summary\.json"):
        read_run(folder)


def test_the_page_marks_the_best_and_escapes_what_it_shows() -> None:
    text = render_comparison(compare_runs([RUN, replace(OTHER, name="<b>second")]))
    assert '<td class="best">● 0.600</td>' in text
    assert "<b>second" not in text
    assert "Pose AP by time" in text


def test_a_page_can_be_made_of_runs_that_never_validated() -> None:
    bare = replace(RUN, metrics={}, history=[])
    assert "Configuration" in render_comparison(compare_runs([bare, replace(bare, url="/other")]))


def test_the_command_prints_a_table_and_writes_a_page(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", summary=finished(0.5)),
        write_run(tmp_path / "b", lr0=0.02, summary=finished(0.7)),
    ]
    page = tmp_path / "compare.html"
    done = CliRunner().invoke(app, ["compare", *map(str, runs), "--out", str(page)], catch_exceptions=False)
    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["pose_ap", "0.500", "0.700*"] in lines
    assert ["train.lr0", "0.01", "0.02"] in lines
    assert "raypose compare" in page.read_text()


def test_a_long_setting_is_printed_whole_and_makes_no_line_long(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, summary=finished(0.5)) for name in ("a", "b")]
    poses = "s3://poses/" + "deep/" * 20
    for run, end in zip(runs, ("x", "y"), strict=True):
        (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("val: shards", f"val: {poses}{end}"))
    done = CliRunner().invoke(app, ["compare", *map(str, runs)], catch_exceptions=False)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 110
    assert next(line for line in lines if line.startswith("pose_ap")) == "pose_ap  0.500   0.500"
    start = next(number for number, line in enumerate(lines) if line.startswith("data.val"))
    columns = zip(*(line.removeprefix("data.val").split() for line in lines[start : start + 3]), strict=True)
    assert ["".join(column) for column in columns] == [f"{poses}x", f"{poses}y"]


def test_the_command_prints_json(tmp_path: Path) -> None:
    summary = finished(0.5)
    summary["best"]["images"] = 8.0
    runs = [write_run(tmp_path / "a", summary=summary), write_run(tmp_path / "b", ap=(0.2,))]
    done = CliRunner().invoke(app, ["compare", *map(str, runs), "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert [run["metrics"]["pose_ap"] for run in found["runs"]] == [0.5, 0.2]
    assert found["best"] == {"pose_ap": ["a"], "images": []}
    assert '"images": 8}' in done.stdout and '"best_epoch": 2,' in done.stdout


def test_a_page_that_is_no_html_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.html"):
        api.compare([tmp_path, tmp_path], out=tmp_path / "folder")
