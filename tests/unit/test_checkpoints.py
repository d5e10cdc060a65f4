"""Checkpoints: complete or absent, verified when read, and retired by rule."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from raypose.checkpoint import (
    CheckpointStore,
    RunIdentity,
    SavedCheckpoint,
    Snapshot,
    TrainProgress,
    best_first,
    locate_model,
    select_expired,
)
from raypose.config import dump_config, load_config
from raypose.errors import CheckpointError
from raypose.storage import open_store
from raypose.storage.base import StoredObject
from raypose.storage.local import LocalStore
from raypose.structures import COCO_PERSON, Skeleton

IDENTITY = RunIdentity("yolo11n-pose", COCO_PERSON, ("person",), 160, "recipe", "data")


def snapshot(step: int, **metrics: float) -> Snapshot:
    torch.manual_seed(step)
    tensors = {"model.w": torch.randn(3, 4), "ema.w": torch.randn(3, 4), "optimizer.0.step": torch.tensor(float(step))}
    return Snapshot(IDENTITY, TrainProgress(step=step, updates=step // 2, best_value=0.25), tensors, metrics)


def write_model(path: Path) -> None:
    path.write_bytes(b"weights")


def saved(step: int, **metrics: float) -> SavedCheckpoint:
    return SavedCheckpoint(f"step-{step:08d}", step, metrics)


def test_what_was_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    store = CheckpointStore(open_store(str(tmp_path)))
    original = snapshot(7, pose_ap=0.5, pose_ap_m=math.nan)
    entry = store.save(original, write_model)
    loaded = store.load(entry.name)
    assert loaded.identity == original.identity
    assert loaded.progress == original.progress
    assert loaded.metrics["pose_ap"] == 0.5
    assert math.isnan(loaded.metrics["pose_ap_m"])
    assert set(loaded.tensors) == set(original.tensors)
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in original.tensors.items())


def test_a_checkpoint_from_before_losses_of_an_unfinished_epoch_were_kept_is_read(tmp_path: Path) -> None:
    store = CheckpointStore(open_store(str(tmp_path)))
    entry = store.save(snapshot(7), write_model)
    state = tmp_path / "checkpoints" / entry.name / "state.json"
    raw = json.loads(state.read_text())
    for name in ("epoch_losses", "epoch_steps", "epoch_seconds"):
        del raw["progress"][name]
    state.write_text(json.dumps(raw))
    assert store.load(entry.name).progress == snapshot(7).progress


def test_a_checkpoint_without_its_state_file_does_not_exist(tmp_path: Path) -> None:
    store = CheckpointStore(open_store(str(tmp_path)))
    store.save(snapshot(1), write_model)
    store.save(snapshot(2), write_model)
    (tmp_path / "checkpoints/step-00000002/state.json").unlink()
    assert [entry.step for entry in store.saved()] == [1]


class Retiring(LocalStore):
    """The oldest checkpoint goes as soon as it has been listed, as when a run that is watched goes on."""

    def child(self, prefix: str) -> Retiring:
        return Retiring(self.root / prefix)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        entries = sorted(super().list(prefix), key=lambda entry: entry.key)
        if len(entries) > 3:
            self.delete([entry.key for entry in entries[:3]])
        yield from entries


def test_a_checkpoint_that_is_retired_while_it_is_looked_at_does_not_exist(tmp_path: Path) -> None:
    for step in (1, 2):
        CheckpointStore(open_store(str(tmp_path))).save(snapshot(step), write_model)
    assert [entry.step for entry in CheckpointStore(Retiring(tmp_path)).saved()] == [2]


def test_a_damaged_checkpoint_is_passed_over_with_a_warning_that_names_it(tmp_path: Path) -> None:
    store = CheckpointStore(open_store(str(tmp_path)))
    store.save(snapshot(1), write_model)
    store.save(snapshot(2), write_model)
    tensors = tmp_path / "checkpoints/step-00000002/state.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    warnings: list[str] = []
    latest = store.load_latest(warnings.append)
    assert latest is not None
    assert latest.progress.step == 1
    assert len(warnings) == 1
    assert "step-00000002" in warnings[0]
    assert "sha256" in warnings[0]


def test_no_checkpoint_at_all_is_a_fresh_start(tmp_path: Path) -> None:
    assert CheckpointStore(open_store(str(tmp_path))).load_latest(pytest.fail) is None


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    store = CheckpointStore(open_store(str(tmp_path)))
    store.save(snapshot(3, pose_ap=0.1), write_model)
    store.save(snapshot(3, pose_ap=0.2), write_model)
    assert [entry.metrics for entry in store.saved()] == [{"pose_ap": 0.2}]


def test_a_failed_save_leaves_the_earlier_checkpoints_alone(tmp_path: Path) -> None:
    store = CheckpointStore(open_store(str(tmp_path)))
    store.save(snapshot(1), write_model)

    def full_disk(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.save(snapshot(2), full_disk)
    assert [entry.step for entry in store.saved()] == [1]
    assert not list(tmp_path.rglob("*partial*"))


def test_deleting_removes_the_folder_and_nothing_else(tmp_path: Path) -> None:
    store = CheckpointStore(open_store(str(tmp_path)))
    first = store.save(snapshot(1), write_model)
    store.save(snapshot(2), write_model)
    store.delete([first])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_retention_keeps_the_newest_and_the_best() -> None:
    entries = [saved(1, pose_ap=0.3), saved(2, pose_ap=0.9), saved(3, pose_ap=0.9), saved(4), saved(5, pose_ap=0.1)]
    doomed = select_expired(entries, keep_last=2, keep_best=1, best_metric="pose_ap")
    assert [entry.step for entry in doomed] == [1, 3]


def test_retention_may_keep_the_best_alone() -> None:
    entries = [SavedCheckpoint(str(step), step, {"pose_ap": value}) for step, value in ((1, 0.1), (2, 0.9), (3, 0.2))]
    doomed = select_expired(entries, keep_last=0, keep_best=1, best_metric="pose_ap")
    assert [one.step for one in doomed] == [1, 3]


def test_what_was_best_by_another_metric_is_not_compared_with() -> None:
    by_boxes = TrainProgress().judged("box_ap50", 0.95, 3).judged("box_ap50", 0.90, 4)
    assert (by_boxes.best_epoch, by_boxes.stale_epochs) == (3, 1)
    by_pose = by_boxes.judged("pose_ap", 0.6, 5)
    assert (by_pose.best_value, by_pose.best_epoch, by_pose.stale_epochs) == (0.6, 5, 0)


def test_of_equally_good_checkpoints_the_earlier_is_best() -> None:
    assert [entry.step for entry in best_first([saved(2, f1=0.5), saved(1, f1=0.5), saved(3, f1=math.nan)], "f1")] == [
        1,
        2,
    ]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"skeleton": Skeleton(("a", "b"))}, "2 keypoints"),
        ({"class_names": ("dog",)}, "dog"),
        ({"train_digest": "other"}, "training set"),
        ({"recipe_digest": "other"}, "recipe"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(change: dict[str, object], word: str) -> None:
    with pytest.raises(CheckpointError, match=word):
        IDENTITY.require_same(dataclasses.replace(IDENTITY, **change), "here")  # type: ignore[arg-type]


def test_a_run_stands_for_its_best_checkpoint_and_on_request_for_its_last(tmp_path: Path) -> None:
    store = CheckpointStore(open_store(str(tmp_path)))
    store.save(snapshot(1, pose_ap=0.1, f1=0.9), write_model)
    store.save(snapshot(2, pose_ap=0.2, f1=0.3), write_model)
    store.save(snapshot(3), write_model)
    config = load_config(None, ["data.train=a", "data.val=b", "checkpoint.best_metric=f1"])
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert Path(locate_model(tmp_path)).name == "step-00000001"
    assert Path(locate_model(tmp_path, "last")).name == "step-00000003"
    assert Path(locate_model(tmp_path / "checkpoints/step-00000002")).name == "step-00000002"


def test_naming_something_that_is_no_model_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such run"):
        locate_model(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="neither a run"):
        locate_model(tmp_path)
