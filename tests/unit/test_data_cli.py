"""`raypose data` as a user types it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raypose.cli import main
from raypose.cli.data import app
from raypose.cli.data.progress import Pace
from raypose.errors import ConfigError

runner = CliRunner()


def run(*arguments: object) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with synthetic `people` and their shard set `shards`."""
    root = tmp_path_factory.mktemp("data")
    run("synth", root / "people", "--samples", 6, "--seed", 3, "--size", 96)
    run("build", root / "people", root / "shards")
    return root


def test_synthesised_people_build_into_a_set_that_verifies(made: Path) -> None:
    assert "6 samples in 1 shard, all well" in run("verify", made / "shards")


def test_stats_are_the_same_as_text_and_as_json(made: Path) -> None:
    stats = json.loads(run("stats", made / "shards", "--json"))
    assert stats["images"] == 6
    assert f"labelled people    {stats['labelled_people']}" in run("stats", made / "shards")


def test_show_writes_a_picture_and_refuses_other_suffixes(made: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "new" / "sheet.png"
    assert str(sheet) in run("show", made / "shards", "--out", sheet, "--samples", 4)
    assert sheet.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"\.png"):
        run("show", made / "shards", "--out", tmp_path / "sheet.gif")


def exit_code(*arguments: object) -> object:
    with pytest.raises(SystemExit) as stopped:
        main(["data", *(str(argument) for argument in arguments)])
    return stopped.value.code


def test_bad_data_ends_with_code_3_and_one_line(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("build", made / "people", made / "shards") == 3
    assert exit_code("stats", tmp_path) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "--overwrite" in lines[0] and "raypose data build" in lines[1]


def test_a_damaged_set_does_not_verify(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("build", made / "people", tmp_path / "set")
    (shard,) = (tmp_path / "set").glob("shard-000000-*.pkl")
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    assert exit_code("verify", tmp_path / "set") == 3
    assert f"{shard.name}, record 0" in capsys.readouterr().out


def test_a_hostile_label_ends_with_code_3(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "people"
    run("synth", root, "--samples", 2, "--seed", 1, "--size", 96)
    (root / "labels" / "synth-000001.pkl").write_bytes(pickle.dumps(print))
    assert exit_code("build", root, tmp_path / "set") == 3
    assert "builtins.print" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_coco_and_yolo_imports_tell_what_they_assumed(made: Path, tmp_path: Path) -> None:
    category = {"id": 1, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]}
    name = "synth-000000.jpg" if (made / "people/images/synth-000000.jpg").exists() else "synth-000000.png"
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "keypoints": [2, 2, 2, 3, 3, 2, 4, 4, 2]}
    raw = {"images": [{"id": 1, "file_name": name}], "annotations": [person], "categories": [category]}
    (tmp_path / "coco.json").write_text(json.dumps(raw))
    images = made / "people" / "images"
    printed = run(
        "import", "coco", "--images", images, "--annotations", tmp_path / "coco.json", "--out", tmp_path / "c"
    )
    assert "OKS sigmas: COCO's constants" in printed and "left_eye/right_eye" in printed and "1 images" in printed
    (tmp_path / "images").symlink_to(images)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "synth-000000.txt").write_text("0 .5 .5 .5 .5 .4 .4 2\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [person]\nkpt_shape: [1, 3]\nkpt_names: {0: [nose]}\n")
    printed = run("import", "yolo", tmp_path / "data.yaml", "--split", "train", "--out", tmp_path / "y")
    assert "5 of 6 images have no label file" in printed and "1 labelled people" in printed


def test_a_pace_tells_rates_and_time_left_and_forgets_what_flew_past() -> None:
    pace = Pace(total=10_000)
    for second in range(0, 11):
        pace.add(float(second), 40 * second, 8_000_000 * second)
    assert str(pace) == "40 images/s, 8.0 MB/s, 0:04:00 left"
    pace = Pace(total=10_000)
    pace.add(0.0, 0, 0)
    for second in range(1, 200):
        pace.add(float(second), 5000 + 2 * second, 0)
    assert str(pace) == "2 images/s, 0:38:21 left"


def test_what_takes_longer_than_a_second_has_a_rate_all_the_same() -> None:
    pace = Pace(100, "batches")
    pace.add(0.0, 0, 0)
    pace.add(20.0, 8, 0)
    assert str(pace) == "0.4 batches/s, 0:03:50 left"


def test_workers_make_no_difference(made: Path, tmp_path: Path) -> None:
    printed = run("build", made / "people", tmp_path / "set", "--workers", 2, "--no-ray")
    assert printed.startswith("wrote ") and "6 images in 1 shard" in printed
    assert {path.name for path in (tmp_path / "set").iterdir()} == {path.name for path in (made / "shards").iterdir()}
