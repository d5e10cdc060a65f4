"""Training whose pictures are drawn by tensor operations, as on a GPU: the same people, and as exact to resume."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from raypose.engine.setup import prepare
from raypose.engine.world import World
from raypose.storage import open_store
from raypose.vision.device_decode import decode_jpegs
from tests.data_sets import tiny_run
from tests.faults.interrupted import train


def test_a_device_draws_the_pictures_of_the_processor_and_has_its_targets(data: Path, tmp_path: Path) -> None:
    drawn = {}
    for on_device in (False, True):
        config = tiny_run(data, tmp_path, f"name=run-{on_device}", f"train.device_augment={str(on_device).lower()}")
        parts = prepare(config, World(), open_store(config.storage).child(config.name), lambda event: None)
        drawn[on_device] = [batch for batches, _ in zip(parts.feed(0), range(6), strict=False) for batch in batches]
    for reference, found in zip(drawn[False], drawn[True], strict=True):
        assert found.ids == reference.ids
        for name in ("cls", "bboxes", "keypoints", "batch_idx"):
            assert torch.equal(found.targets[name], reference.targets[name])
        difference = (found.targets["img"] - reference.targets["img"]).abs() * 255
        assert difference.mean() < 2.5  # levels: drawn people have sharp edges, at which half a pixel shows
        assert found.targets["img"].std() > 0.05


def test_a_run_on_device_drawn_pictures_resumes_bit_for_bit(data: Path, tmp_path: Path) -> None:
    config = tiny_run(data, tmp_path / "cut", "train.device_augment=true", "checkpoint.every_steps=4")
    train(config, cut_after=6)
    _, resumed = train(config)
    _, whole = train(tiny_run(data, tmp_path / "whole", "train.device_augment=true", "checkpoint.every_steps=4"))
    assert resumed.progress.step == whole.progress.step == 12
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())


def test_memory_that_runs_out_says_nothing_about_the_files(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded again by others, their pixels would differ a little from those of every other run."""

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("raypose.engine.setup.decodes_jpegs", lambda device: True)
    monkeypatch.setattr("raypose.engine.feed.decode_jpegs", full)
    config = tiny_run(data, tmp_path, "train.device_augment=true")
    parts = prepare(config, World(), open_store(config.storage).child(config.name), lambda event: None)
    with pytest.raises(torch.OutOfMemoryError):
        next(iter(parts.feed(0)))


def test_a_decoder_with_a_stream_of_its_own_writes_where_nobody_reads_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    stream = SimpleNamespace(synchronize=lambda: done.append("waited"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr("torchvision.io.decode_jpeg", lambda files, **_: done.append("decoded"))
    decode_jpegs([torch.zeros(1, dtype=torch.uint8)], torch.device("cuda", 0))
    assert done == ["waited", "decoded"]


def test_what_a_decoder_had_begun_before_a_bad_file_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is free, and others write to it next."""
    done: list[str] = []

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to parse jpeg stream")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(synchronize=lambda: None))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append("waited"))
    monkeypatch.setattr("torchvision.io.decode_jpeg", fails)
    with pytest.raises(RuntimeError, match="Failed to parse"):
        decode_jpegs([torch.zeros(1, dtype=torch.uint8)], torch.device("cuda", 0))
    assert done == ["waited"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("on_device", [False, True])
def test_a_gpu_is_fed_what_a_processor_is(data: Path, tmp_path: Path, on_device: bool) -> None:
    fed = {}
    for device in ("cpu", "cuda:0"):
        config = tiny_run(data, tmp_path, f"name=run-{device[:3]}", f"train.device_augment={str(on_device).lower()}")
        world, store = World(device=device), open_store(config.storage).child(config.name)
        batches = prepare(config, world, store, lambda event: None).feed(0)
        fed[device] = [batch for step, _ in zip(batches, range(6), strict=False) for batch in step]
    for reference, found in zip(fed["cpu"], fed["cuda:0"], strict=True):
        assert found.ids == reference.ids
        for name, expected in reference.targets.items():
            assert found.targets[name].is_cuda
            difference = (found.targets[name].cpu() - expected).abs()
            # nvJPEG decodes a level or two off, and smooths colours in another way.
            assert difference.mean() < (2.5 / 255 if on_device and name == "img" else 1e-6)
