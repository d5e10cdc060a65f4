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
    run_of,
    select_expired,
    version_of,
)
from raypose.config import dump_config, load_config
from raypose.errors import CheckpointError, StorageUnavailableError
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


class FailingStore(LocalStore):
    """From the first key on that ends with `at`, nothing can be uploaded or listed any more."""

    def __init__(self, root: Path, at: str) -> None:
        super().__init__(root)
        self.at = at

    def child(self, prefix: str) -> FailingStore:
        return FailingStore(self.root / prefix, self.at)

    def upload(self, path: Path, key: str) -> None:
        if key.endswith(self.at):
            raise StorageUnavailableError(f"{key}: the server is away")
        super().upload(path, key)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        raise StorageUnavailableError(f"{prefix}: the server is away")


@pytest.mark.parametrize("at", ["state.safetensors", "model.pt"])
def test_saving_a_step_again_never_leaves_an_old_state_beside_new_files(tmp_path: Path, at: str) -> None:
    CheckpointStore(LocalStore(tmp_path)).save(snapshot(3), write_model)
    with pytest.raises(StorageUnavailableError):
        CheckpointStore(FailingStore(tmp_path, at)).save(snapshot(3), write_model)
    assert CheckpointStore(LocalStore(tmp_path)).saved() == []


def test_a_removal_that_is_interrupted_leaves_no_half_of_a_checkpoint(tmp_path: Path) -> None:
    doomed = CheckpointStore(LocalStore(tmp_path)).save(snapshot(1), write_model)
    with pytest.raises(StorageUnavailableError):
        CheckpointStore(FailingStore(tmp_path, "nothing")).delete([doomed])
    assert CheckpointStore(LocalStore(tmp_path)).saved() == []


def test_a_server_that_is_away_is_no_reason_to_fall_back_to_an_older_checkpoint(tmp_path: Path) -> None:
    for step in (1, 2):
        CheckpointStore(LocalStore(tmp_path)).save(snapshot(step), write_model)

    class Away(LocalStore):
        def child(self, prefix: str) -> Away:
            return Away(self.root / prefix)

        def download(self, key: str, path: Path) -> None:
            raise StorageUnavailableError(f"{self.place(key)}: the server is away")

    with pytest.raises(StorageUnavailableError, match="step-00000002"):
        CheckpointStore(Away(tmp_path)).load_latest(pytest.fail)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 2}, "format 2, this raypose reads 1; update raypose"),
        ({"progress": {"steps": 7}}, "not the state of a checkpoint"),
        ({"model": {"architecture": "yolo11n-pose"}}, "not the state of a checkpoint"),
        ({"sha256": {}}, "not the state of a checkpoint"),
        ({"metrics": []}, "not the state of a checkpoint"),
    ],
)
def test_a_state_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, object], complaint: str) -> None:
    store = CheckpointStore(LocalStore(tmp_path))
    entry = store.save(snapshot(7), write_model)
    state = tmp_path / "checkpoints" / entry.name / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | change))
    with pytest.raises(CheckpointError, match=rf"step-00000007/state\.json: {complaint}"):
        store.load(entry.name)


def test_weights_go_where_users_look_for_them(tmp_path: Path) -> None:
    store = CheckpointStore(LocalStore(tmp_path))
    entry = store.save(snapshot(1), write_model, weights=["weights/last.pt"])
    store.copy_model(entry, LocalStore(tmp_path), "weights/best.pt")
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == ["best.pt", "last.pt"]
    assert {path.read_bytes() for path in (tmp_path / "weights").iterdir()} == {b"weights"}


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


def test_an_epoch_that_only_equals_the_best_or_measures_nothing_is_stale() -> None:
    best = TrainProgress().judged("pose_ap", 0.5, 2)
    for value in (0.5, 0.4, None):
        later = best.judged("pose_ap", value, 5)
        assert (later.best_value, later.best_epoch, later.stale_epochs) == (0.5, 2, 3)
    assert later.judged("pose_ap", 0.6, 6).stale_epochs == 0
    assert TrainProgress().judged("pose_ap", None, 4).stale_epochs == 4


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


def test_of_a_run_that_kept_only_weights_the_best_are_meant_before_the_last(tmp_path: Path) -> None:
    weights = LocalStore(tmp_path)
    weights.write("weights/last.pt", b"last")
    assert locate_model(tmp_path) == str(tmp_path / "weights/last.pt")
    weights.write("weights/best.pt", b"best")
    assert locate_model(tmp_path) == str(tmp_path / "weights/best.pt")


def test_weights_and_exported_folders_stand_for_themselves(tmp_path: Path) -> None:
    LocalStore(tmp_path).write("openvino/model.xml", b"<net/>")
    LocalStore(tmp_path).write("best.pt", b"weights")
    for name in ("openvino", "best.pt"):
        assert locate_model(tmp_path / name) == str(tmp_path / name)


def test_a_run_whose_first_checkpoint_is_under_way_is_said_to_have_none_yet(tmp_path: Path) -> None:
    CheckpointStore(LocalStore(tmp_path)).save(snapshot(1), write_model)
    (tmp_path / "checkpoints/step-00000001/state.json").unlink()
    with pytest.raises(CheckpointError, match="no complete checkpoint yet"):
        locate_model(tmp_path)


def test_the_run_is_found_from_what_lies_in_it_and_from_no_deeper(tmp_path: Path) -> None:
    LocalStore(tmp_path / "run").write("config.yaml", b"name: run")
    for part in ("", "weights/best.pt", "checkpoints/step-00000001", "checkpoints/step-00000001/model.pt"):
        run = run_of(tmp_path / "run" / part)
        assert run is not None and run.url == str(tmp_path / "run")
    assert run_of(tmp_path / "run/checkpoints/step-00000001/model/extra") is None


def test_the_version_of_a_model_changes_with_its_content_and_only_then(tmp_path: Path) -> None:
    folder, weights = tmp_path / "openvino", tmp_path / "best.pt"
    LocalStore(folder).write("model.xml", b"<net/>")
    LocalStore(folder).write("model.bin", bytes(100))
    weights.write_bytes(bytes(2**20) + b"a")
    first = [version_of(weights), version_of(folder)]
    assert [name.rpartition("-")[0] for name in first] == ["best", "openvino"]
    assert [version_of(weights), version_of(folder)] == first
    weights.write_bytes(bytes(2**20) + b"b")
    LocalStore(folder).write("model.bin", bytes(99) + b"\1")
    second = [version_of(weights), version_of(folder)]
    assert all(new != old for new, old in zip(second, first, strict=True))
    checkpoint = tmp_path / "step-00000001"
    LocalStore(checkpoint).write("state.json", b"{}")
    version = version_of(checkpoint)
    LocalStore(checkpoint).write("cached.engine", b"beside it")
    assert version_of(checkpoint) == version  # its state says what it is
