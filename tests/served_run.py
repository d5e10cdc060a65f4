"""A run with checkpoints of small random models that find somebody, for tests of what is served."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from raypose.checkpoint import CheckpointStore, RunIdentity, Snapshot, TrainProgress
from raypose.config import dump_config, load_config
from raypose.config.schema import TrainConfig
from raypose.model import ModelSpec, build_model, portable_copy, write_portable
from raypose.storage import open_store
from raypose.structures import COCO_PERSON, ImageArray, Skeleton

IMGSZ = 160
SPEC = ModelSpec("yolo11n-pose", COCO_PERSON, ("person",))
OTHER_SPEC = ModelSpec("yolo11n-pose", Skeleton(("head", "tail")), ("fish",))


def photograph(width: int = 320, height: int = 240, seed: int = 1) -> ImageArray:
    """Smooth random colours."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def jpeg(image_HW3: ImageArray | None = None) -> bytes:
    """As a camera would send it."""
    pixels = photograph() if image_HW3 is None else image_HW3
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes())


@cache
def lively_model(spec: ModelSpec, seed: int) -> nn.Module:
    """Random weights, with BatchNorm that has seen an image and scores that scatter around one half."""
    model: Any = build_model(spec, TrainConfig(imgsz=IMGSZ), seed=seed)
    image = torch.from_numpy(photograph(IMGSZ, IMGSZ)).permute(2, 0, 1)[None].float() / 255
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.9
    with torch.no_grad():
        model(image.repeat(2, 1, 1, 1))
        model.eval()
        _, outputs = model(image)
        logits = outputs["scores"]
        for branch in model.model[-1].cv3:
            last = branch[-1]
            gain = 1.5 / logits.std()
            last.weight.mul_(gain)
            last.bias.copy_((-2.0 - gain * (logits.mean() - last.bias.mean())).expand_as(last.bias))
    return model  # type: ignore[no-any-return]


def add_checkpoint(run: Path, step: int, *, seed: int, pose_ap: float, spec: ModelSpec = SPEC) -> Path:
    """A complete checkpoint in a run that begins with the first one; returns its folder."""
    if not (run / "config.yaml").exists():
        run.mkdir(parents=True, exist_ok=True)
        places = ["data.train=train", "data.val=val", f"train.imgsz={IMGSZ}", f"name={run.name}"]
        (run / "config.yaml").write_text(dump_config(load_config(None, places)))
    model = lively_model(spec, seed)
    identity = RunIdentity(spec.architecture, spec.skeleton, spec.class_names, IMGSZ, "recipe", "data")
    tensors = {f"ema.{name}": tensor for name, tensor in model.state_dict().items()}
    snapshot = Snapshot(identity, TrainProgress(step=step), tensors, {"pose_ap": pose_ap})
    saved = CheckpointStore(open_store(str(run))).save(snapshot, lambda path: weights_file(path, seed=seed, spec=spec))
    return run / "checkpoints" / saved.name


def weights_file(path: Path, *, seed: int, spec: ModelSpec = SPEC) -> None:
    """A `.pt` as Ultralytics writes them."""
    model = portable_copy(lively_model(spec, seed))
    write_portable(model, spec, TrainConfig(imgsz=IMGSZ), path, epoch=1, metrics={})
