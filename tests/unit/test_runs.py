"""`raypose runs`: runs are found, described, pruned and told apart by what they have left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from raypose.checkpoint import CheckpointStore, RunIdentity, Snapshot, TrainProgress
from raypose.cli.root import app
from raypose.config import dump_config, load_config
from raypose.engine.run_catalogue import list_runs, prune_run, show_run
from raypose.engine.run_difference import Parting, diff_runs, first_parting
from raypose.errors import CheckpointError, ConfigError
from raypose.storage import StoredObject, open_store
from raypose.storage.local import LocalStore
from raypose.structures import COCO_PERSON


def make_run(
    storage: Path,
    name: str,
    *,
    ap: tuple[float | None, ...] = (0.1, 0.3, 0.2),
    losses: tuple[float, ...] = (3.0, 2.0),
    lr0: float = 0.01,
    data: str = "data",
    weight: float = 1.0,
) -> Path:
    """A run with a checkpoint every ten steps, None where it was not validated, and a line of the log every five."""
    store = open_store(str(storage)).child(name)
    config = load_config(None, ["data.train=a", "data.val=b", f"name={name}", f"storage={storage}", f"train.lr0={lr0}"])
    store.write("config.yaml", dump_config(config).encode())
    identity = RunIdentity("yolo11n-pose", COCO_PERSON, ("person",), 640, config.recipe_digest(), data)
    for number, value in enumerate(ap, start=1):
        metrics = {} if value is None else {"pose_ap": value}
        tensors = {"model.w": torch.full((2, 2), weight * number)}
        snapshot = Snapshot(identity, TrainProgress(step=10 * number), tensors, metrics)
        CheckpointStore(store).save(snapshot, lambda path: path.write_bytes(b"weights"))
    rows = [{"kind": "train", "step": 5 * n, "train/pose_loss": loss} for n, loss in enumerate(losses, start=1)]
    store.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    return storage / name


def invoke(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["runs", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_runs_are_listed_with_how_far_and_how_good_they_are(tmp_path: Path) -> None:
    make_run(tmp_path, "first")
    finished = make_run(tmp_path, "second", ap=(None,))
    (finished / "summary.json").write_text(json.dumps({"status": "completed"}))
    (tmp_path / "notes.txt").write_text("no run")
    first, second = list_runs(str(tmp_path))
    assert (first.name, first.status, first.step) == ("first", "not finished", 30)
    assert first.best is not None
    assert (first.best.step, first.best.metrics["pose_ap"]) == (20, 0.3)
    assert first.size_bytes == sum(path.stat().st_size for path in (tmp_path / "first").rglob("*") if path.is_file())
    assert (second.status, second.best) == ("completed", None)
    assert "pose_ap 0.300 at 20" in invoke("list", tmp_path)
    assert [run["name"] for run in json.loads(invoke("list", tmp_path, "--json"))] == ["first", "second"]


def test_every_object_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, "first")
    make_run(tmp_path, "second")
    listed: list[str] = []
    walk = LocalStore.list

    def counting(store: LocalStore, prefix: str = "") -> Iterator[StoredObject]:
        for entry in walk(store, prefix):
            listed.append(store.place(entry.key))
            yield entry

    monkeypatch.setattr(LocalStore, "list", counting)
    assert [len(run.checkpoints) for run in list_runs(str(tmp_path))] == [3, 3]
    assert len(listed) == len(set(listed))


def test_a_link_to_a_run_beside_it_is_no_run_of_its_own(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "first")
    make_run(tmp_path / "large disk", "second")
    (tmp_path / "runs/latest").symlink_to("first")
    (tmp_path / "runs/second").symlink_to(tmp_path / "large disk/second")
    assert [run.name for run in list_runs(str(tmp_path / "runs"))] == ["first", "second"]


def test_a_run_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    make_run(tmp_path, "sound")
    (make_run(tmp_path, "broken") / "config.yaml").write_text("train: {epochs: no}")
    broken, sound = list_runs(str(tmp_path))
    assert (broken.status, sound.status) == ("unreadable", "not finished")
    assert broken.problem is not None
    assert "epochs" in broken.problem


def test_listing_a_run_instead_of_its_storage_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="runs show"):
        list_runs(str(make_run(tmp_path, "one")))


def test_a_storage_without_runs_is_said_to_have_none(tmp_path: Path) -> None:
    assert invoke("list", tmp_path / "nowhere").strip() == f"{tmp_path / 'nowhere'}: no runs"


def test_a_run_is_shown_with_its_checkpoints_and_recipe(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one")
    entry, config = show_run(str(run / "checkpoints/step-00000010"))
    assert [(one.step, one.is_best) for one in entry.checkpoints] == [(10, False), (20, True), (30, False)]
    assert all(one.size_bytes > 0 for one in entry.checkpoints)
    text = invoke("show", run)
    assert config.recipe_digest()[:12] in text
    assert "step-00000020" in text
    assert json.loads(invoke("show", run, "--json"))["config"]["train"]["lr0"] == 0.01


def test_naming_something_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for command in (show_run, lambda place: diff_runs(place, place)):
        with pytest.raises(CheckpointError, match="no run there"):
            command(str(tmp_path))


def test_pruning_keeps_the_newest_and_the_best_and_says_first_what_would_go(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", ap=(0.1, 0.9, 0.2, None, 0.3))
    kept = ["step-00000020", "step-00000050"]
    assert "would delete 3 checkpoints" in invoke("prune", run, "--keep-last=1", "--keep-best=1", "--dry-run")
    assert len(list((run / "checkpoints").iterdir())) == 5
    assert "deleted step-00000040" in invoke("prune", run, "--keep-last=1", "--keep-best=1")
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == kept


def test_pruning_takes_what_an_interrupted_save_has_left_but_not_what_may_be_under_way(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", ap=(None, None))
    for step in (5, 30):
        (run / f"checkpoints/step-{step:08d}").mkdir()
        (run / f"checkpoints/step-{step:08d}/state.safetensors").write_bytes(b"12345")
    pruned = prune_run(str(run), keep_last=9, keep_best=0, dry_run=False)
    assert (pruned.names, pruned.size_bytes) == (("step-00000005",), 5)
    assert (run / "checkpoints/step-00000030/state.safetensors").exists()


def test_pruning_everything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave nothing"):
        prune_run(str(make_run(tmp_path, "one")), keep_last=0, keep_best=0, dry_run=False)


def test_runs_that_are_the_same_are_said_to_be(tmp_path: Path) -> None:
    difference = diff_runs(str(make_run(tmp_path, "a")), str(make_run(tmp_path, "b")))
    assert difference.is_same
    assert (difference.settings, difference.versions) == ({}, {})
    assert (difference.compared_steps, difference.equal_checkpoints) == (2, (10, 20, 30))
    assert "the checkpoints of steps 10, 20, 30 have the same bits" in invoke("diff", tmp_path / "a", tmp_path / "b")


def test_what_parts_two_runs_is_named(tmp_path: Path) -> None:
    make_run(tmp_path, "a")
    make_run(tmp_path, "b", losses=(3.0, 2.5, 1.0), lr0=0.02, data="other", weight=2.0)
    difference = diff_runs(str(tmp_path / "a"), str(tmp_path / "b"))
    assert difference.settings == {"train.lr0": ("0.01", "0.02")}
    assert difference.identity == ("recipe_digest", "train_digest")
    assert difference.parting == Parting(10, "pose_loss", (2.0, 2.5))
    assert difference.parting.relative == pytest.approx(0.2)
    assert (difference.equal_checkpoints, difference.other_checkpoints) == ((), (10, 20, 30))
    assert not difference.is_same
    text = invoke("diff", tmp_path / "a", tmp_path / "b")
    assert "part at step 10: pose_loss 2 and 2.5, 2.0e-01 apart" in text
    assert json.loads(invoke("diff", tmp_path / "a", tmp_path / "b", "--json"))["parting"]["step"] == 10


def test_runs_part_where_the_first_loss_differs_and_by_the_one_that_differs_most() -> None:
    same = {"box": 1.0, "pose": float("nan")}
    assert first_parting({5: same, 10: {"box": 1.0, "pose": 4.0}}, {5: same, 10: {"box": 1.1, "pose": 8.0}}) == Parting(
        10, "pose", (4.0, 8.0)
    )
    assert first_parting({5: same}, {10: same}) is None
