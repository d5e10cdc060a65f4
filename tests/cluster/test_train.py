"""The main job under a real Ray: trained by two workers, validated, drawn, kept."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import raypose
from raypose.checkpoint import CheckpointStore
from raypose.data.shard_set import ShardSet
from raypose.errors import DataError
from raypose.launch.worker import reserved_threads
from raypose.storage import open_store
from raypose.structures import COCO_PERSON
from raypose.telemetry import CheckpointSaved, EpochValidated, Event, RunStarted, StepsDone, WorkersStarting
from raypose.vision.decode import decode_rgb
from tests.data_sets import build_synthetic, tiny_run
from tests.faults import interrupted
from tests.processes import processes_below

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def test_the_summary_says_what_happened(finished: tuple[dict[str, Any], list[Event]]) -> None:
    summary, _ = finished
    assert summary["status"] == "completed"
    assert (summary["epochs"], summary["steps"], summary["images"], summary["workers"]) == (2, 12, 96, 2)
    assert 0.0 <= summary["best"]["pose_ap50"] <= 1.0
    assert summary["best"]["epoch"] in (1, 2)
    assert summary["images_per_second"] > 0
    assert summary["wall_seconds"] >= summary["train_seconds"] > 0
    on_disk = json.loads(Path(summary["folder"], "summary.json").read_text())
    assert on_disk == summary


def test_the_run_leaves_every_file_that_the_guide_promises(finished: tuple[dict[str, Any], list[Event]]) -> None:
    folder = Path(finished[0]["folder"])
    names = "config.yaml metrics.jsonl results.csv summary.json weights/best.pt weights/last.pt report/index.html"
    assert [name for name in names.split() if not (folder / name).is_file()] == []
    assert (folder / "report/index.html").read_text().count("data:image/jpeg") >= 2
    assert list((folder / "tensorboard").iterdir())
    with (folder / "results.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    checkpoints = {path.name for path in (folder / "checkpoints").iterdir()}
    assert checkpoints == {"step-00000006", "step-00000012"}


def test_the_driver_hears_of_every_stage_in_order(finished: tuple[dict[str, Any], list[Event]]) -> None:
    events = finished[1]
    assert events[0] == WorkersStarting("2", None)
    assert isinstance(events[1], RunStarted)
    assert events[1].workers == 2
    assert [event.step for event in events if isinstance(event, StepsDone)] == [2, 4, 6, 8, 10, 12]
    assert [event.epoch for event in events if isinstance(event, EpochValidated)] == [1, 2]
    assert [event.step for event in events if isinstance(event, CheckpointSaved)] == [6, 12]


def test_ultralytics_loads_the_weights_and_finds_what_raypose_finds(
    finished: tuple[dict[str, Any], list[Event]], data: Path
) -> None:
    from ultralytics import YOLO

    folder = Path(finished[0]["folder"])
    sample = ShardSet.open(str(data / "val")).sample(0, 0)
    image = decode_rgb(sample.image, sample.id)
    ours = raypose.load(folder, conf=0.0001, device="cpu").predict([image])[0]
    theirs = YOLO(folder / "weights/best.pt").predict(image[..., ::-1], imgsz=64, conf=0.0001, verbose=False)[0]
    assert len(ours) > 0
    np.testing.assert_allclose(ours.box_xyxy_N4, theirs.boxes.xyxy.numpy(), atol=1e-3)
    np.testing.assert_allclose(ours.keypoints_NK3[..., :2], theirs.keypoints.xy.numpy(), atol=1e-3)


def test_validating_the_run_again_gives_the_figures_of_its_summary(
    finished: tuple[dict[str, Any], list[Event]], tmp_path: Path
) -> None:
    summary, _ = finished
    evaluation = raypose.validate(summary["folder"], out=tmp_path)
    for name in ("pose_ap", "pose_ap50", "box_ap50", "pck_auc"):
        assert evaluation.metrics[name] == pytest.approx(summary["best"][name], abs=1e-3)
    assert (tmp_path / "index.html").is_file()


def test_two_workers_and_the_bare_engine_train_the_same_model(
    finished: tuple[dict[str, Any], list[Event]], data: Path, tmp_path: Path
) -> None:
    config = tiny_run(data, tmp_path, "scaling.virtual_workers=2")
    interrupted.train(config)
    folders = (f"{config.storage}/{config.name}", finished[0]["folder"])
    snapshots = [CheckpointStore(open_store(folder)).load("step-00000006") for folder in folders]
    for name, tensor in snapshots[0].tensors.items():
        if name.startswith("model."):
            # AdamW divides by tiny second moments early on, which lifts rounding into the visible.
            torch.testing.assert_close(tensor, snapshots[1].tensors[name], rtol=0, atol=5e-3, msg=name)


def test_a_killed_worker_costs_only_the_steps_since_the_last_checkpoint(data: Path, tmp_path: Path) -> None:
    config = tiny_run(
        data,
        tmp_path,
        "scaling.workers=2",
        "scaling.cpus_per_worker=1",
        "checkpoint.every_steps=2",
        "val.every_epochs=2",
    )
    killed: list[int] = []
    events: list[Event] = []

    def kill_once(event: Event) -> None:
        events.append(event)
        if isinstance(event, CheckpointSaved) and event.step >= 4 and not killed:
            killed.append(_kill_a_train_worker())

    summary = raypose.train(config, report=kill_once)
    assert killed
    assert summary["status"] == "completed"
    assert (summary["steps"], summary["images"]) == (12, 96)
    starts = [event.start_step for event in events if isinstance(event, RunStarted)]
    assert len(starts) == 2
    assert starts[1] >= 4


def test_a_worker_computes_with_the_cores_that_it_reserved_whatever_its_host_exports() -> None:
    import ray

    exported = {"env_vars": {"OMP_NUM_THREADS": "7"}}
    task = ray.remote(num_cpus=2, runtime_env=exported)(reserved_threads)
    assert ray.get(task.remote()) == 2


def test_an_image_that_does_not_decode_ends_the_run_with_its_name_and_is_not_tried_again(tmp_path: Path) -> None:
    data = build_synthetic(tmp_path / "data", train=16, val=4)
    _spoil_one_image(data / "train")
    config = tiny_run(data, tmp_path / "runs", "train.epochs=1", "scaling.cpus_per_worker=1")
    with pytest.raises(DataError, match=r"shard-\d+\.pkl, sample 'synth-000003'"):
        raypose.train(config)


def _kill_a_train_worker() -> int:
    worker = processes_below(os.getpid(), "RayTrainWorker")[0]
    worker.kill()
    return worker.pid


def _spoil_one_image(folder: Path) -> None:
    """Rebuild the set around one image whose bytes a shard holds faithfully and no decoder understands."""
    import dataclasses

    from raypose.data.manifest import Manifest, read_manifest, write_manifest
    from raypose.data.shard import ShardWriter

    store = open_store(str(folder))
    manifest = read_manifest(store)
    samples = list(ShardSet.open(str(folder)))
    for info in manifest.shards:
        (folder / info.name).unlink()
    with ShardWriter(folder / "shard-000000.pkl") as writer:
        for sample in samples:
            spoilt = sample.id == "synth-000003"
            writer.add(dataclasses.replace(sample, image=b"\xff\xd8 not a picture") if spoilt else sample)
    write_manifest(store, Manifest(COCO_PERSON, ("person",), (writer.info(),), manifest.counts))
