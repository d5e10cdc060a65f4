"""Weights from files: what fits comes over, what does not is named, and nothing in a file runs."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from raypose.config.schema import TrainConfig
from raypose.errors import CheckpointError
from raypose.model import ModelSpec, build_model, load_model, load_pretrained, portable_copy, write_portable
from raypose.structures import COCO_PERSON, Skeleton

COCO = ModelSpec("yolo11n-pose", COCO_PERSON, ("person",))
HANDS = ModelSpec("yolo11n-pose", Skeleton(tuple(f"k{index}" for index in range(21))), ("hand",))
TRAIN = TrainConfig(imgsz=128)


@pytest.fixture(scope="module")
def coco_model() -> nn.Module:
    return build_model(COCO, TRAIN, seed=1)


@pytest.fixture(scope="module")
def pt(coco_model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    write_portable(portable_copy(coco_model), COCO, TRAIN, path, epoch=0, metrics={})
    return path


@pytest.fixture(scope="module")
def checkpoint(coco_model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("step-00000007")
    tensors = {f"ema.{name}": tensor for name, tensor in coco_model.state_dict().items()}
    decoys = {name.replace("ema.", "model."): torch.zeros_like(tensor) for name, tensor in tensors.items()}
    save_file({**tensors, **decoys}, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps({"model": COCO.to_dict(), "imgsz": 128}))
    return folder


@pytest.mark.parametrize("source", ["pt", "checkpoint"])
def test_every_tensor_of_an_equal_model_comes_over(
    source: str, coco_model: nn.Module, request: pytest.FixtureRequest
) -> None:
    target = build_model(COCO, TRAIN, seed=2)
    report = load_pretrained(target, request.getfixturevalue(source))
    assert not report.skipped
    expected = coco_model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in target.state_dict().items())


def test_another_skeleton_leaves_only_the_keypoint_head_behind_and_says_so(pt: Path, coco_model: nn.Module) -> None:
    target = build_model(HANDS, TRAIN, seed=2)
    report = load_pretrained(target, pt)
    assert report.skipped
    assert all(".cv4." in name for name in report.skipped)
    assert report.skipped["model.23.cv4.0.2.bias"] == ((51,), (63,))
    assert "model.23.cv4.0.0.conv.weight (51x64x3x3 there, 63x64x3x3 here)" in str(report)
    first = "model.0.conv.weight"
    assert torch.equal(target.state_dict()[first], coco_model.state_dict()[first])


@pytest.mark.parametrize("source", ["pt", "checkpoint"])
def test_a_whole_model_comes_back_with_its_description(
    source: str, coco_model: nn.Module, request: pytest.FixtureRequest
) -> None:
    model, spec, imgsz = load_model(request.getfixturevalue(source))
    assert (spec, imgsz, model.training) == (COCO, 128, False)
    expected = coco_model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_run_folder_stands_for_its_best_weights(pt: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "best.pt").write_bytes(pt.read_bytes())
    assert load_pretrained(build_model(COCO, TRAIN), tmp_path).source.endswith("weights/best.pt")


def test_weights_of_which_nothing_fits_are_an_error(tmp_path: Path, coco_model: nn.Module) -> None:
    save_file({"ema.other": torch.zeros(3)}, tmp_path / "state.safetensors")
    with pytest.raises(CheckpointError, match="none of its 1 tensors fits"):
        load_pretrained(coco_model, tmp_path)


class _Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_a_pt_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, coco_model: nn.Module) -> None:
    hostile, ran = tmp_path / "hostile.pt", tmp_path / "ran"
    torch.save({"model": _Attack(ran)}, hostile)
    with pytest.raises(CheckpointError, match=r"hostile\.pt: not loaded"):
        load_pretrained(coco_model, hostile)
    legacy = tmp_path / "legacy.pt"
    legacy.write_bytes(pickle.dumps(_Attack(ran)))
    with pytest.raises(CheckpointError, match=r"legacy\.pt: not loaded"):
        load_pretrained(coco_model, legacy)
    assert not ran.exists()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_a_damaged_pt_is_a_checkpoint_error(content: bytes, tmp_path: Path, coco_model: nn.Module) -> None:
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged\.pt"):
        load_pretrained(coco_model, path)


def test_a_damaged_safetensors_file_is_a_checkpoint_error(tmp_path: Path, coco_model: nn.Module) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(CheckpointError, match="damaged"):
        load_pretrained(coco_model, tmp_path)


@pytest.mark.parametrize("name", ["missing.pt", "weights.bin", ""])
def test_a_path_without_weights_is_a_checkpoint_error(name: str, tmp_path: Path, coco_model: nn.Module) -> None:
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_pretrained(coco_model, tmp_path / name)
