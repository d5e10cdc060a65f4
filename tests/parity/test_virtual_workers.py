"""The same global batches on one, two and three processes: the same training, up to the order of additions."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from raypose.config import TrainConfig
from raypose.engine.average import WeightAverage
from raypose.engine.feed import DeviceBatch
from raypose.engine.precision import Precision
from raypose.engine.schedule import Schedule
from raypose.engine.step import TrainStep
from raypose.engine.world import World
from raypose.model import (
    ModelSpec,
    build_model,
    build_optimizer,
    freeze_layers,
    set_train_mode,
    targets_from_batch,
)
from raypose.structures import Batch, Skeleton
from tests.forked import forking

SKELETON = Skeleton(("a", "b", "c"), sigmas=(0.1, 0.1, 0.1))
LANES = 4
STEPS = 3


def micro_batch(step: int, lane: int, *, images: int = 4, side: int = 128) -> DeviceBatch:
    """Random, except that one lane of the second step has nobody in it: its keypoint head gets no gradient.

    Large enough that BatchNorm sees 64 values in the coarsest grid: over a few, rounding grows tenfold a step.
    """
    rng = np.random.default_rng([step, lane])
    people = 0 if (step, lane) == (1, 3) else 6
    keypoints = rng.random((people, 3, 3), dtype=np.float32)
    keypoints[..., 2] = 2
    centre = rng.uniform(0.4, 0.6, (people, 2))
    extent = rng.uniform(0.3, 0.6, (people, 2))
    batch = Batch(
        image_B3HW=rng.integers(0, 255, (images, 3, side, side), dtype=np.uint8),
        class_N=np.zeros(people, np.int64),
        box_cxcywh_N4=np.concatenate([centre, extent], axis=1).astype(np.float32),
        keypoints_NK3=keypoints,
        image_index_N=np.sort(rng.integers(0, images, people)),
        ids=tuple(f"{step}-{lane}-{index}" for index in range(images)),
    )
    return DeviceBatch(targets_from_batch(batch, "cpu"), batch.ids)


def train(
    world: World, architecture: str, *, sync_bn: bool = False, compiled: bool = False, steps: int = STEPS
) -> dict[str, Tensor]:
    """Weights, statistics and moving average after a few steps."""
    torch.set_num_threads(1)
    settings = TrainConfig(
        epochs=1,
        batch=16,
        imgsz=128,
        optimizer="SGD",
        lr0=0.01,
        nbs=16,
        warmup_epochs=0.0,
        sync_bn=sync_bn,
        compile=compiled,
    )
    model = build_model(ModelSpec(architecture, SKELETON, ("thing",)), settings, seed=0)
    freeze_layers(model, 0)
    set_train_mode(model)
    step = TrainStep(
        model=model,
        optimizer=build_optimizer(model, settings, STEPS),
        average=WeightAverage(model, decay=0.9, tau=1.0),
        schedule=Schedule.of(settings, samples=STEPS * 16, total_steps=STEPS, warmup_bias_lr=0.1),
        precision=Precision.choose("float32", "cpu"),
        train=settings,
        lanes=LANES,
        world=world,
    )
    for number in range(steps):
        step(number, [micro_batch(number, lane) for lane in world.lanes(LANES)], updates=number)
    return {f"{kind}.{name}": tensor.clone() for kind, module in (("model", model), ("ema", step.average.module))
            for name, tensor in module.state_dict().items()}  # fmt: skip


def work(rank: int, size: int, architecture: str, sync_bn: bool, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=size)
    torch.save(train(World(rank, size), architecture, sync_bn=sync_bn), f"{out}/{rank}.pt")
    dist.destroy_process_group()


def on_processes(size: int, architecture: str, out: Path, *, sync_bn: bool = False) -> list[dict[str, Tensor]]:
    forking()  # the same that `start_processes` will use
    arguments = (size, architecture, sync_bn, str(out))
    mp.start_processes(work, args=arguments, nprocs=size, start_method="forkserver")
    return [torch.load(out / f"{rank}.pt") for rank in range(size)]


@pytest.mark.parametrize(
    ("architecture", "size", "sync_bn"),
    [("yolo11n-pose", 3, False), ("yolo26n-pose", 2, False), ("yolo11n-pose", 2, True)],
)
def test_any_number_of_workers_trains_the_same_model(
    architecture: str, size: int, tmp_path: Path, *, sync_bn: bool
) -> None:
    alone = train(World(), architecture, sync_bn=sync_bn)
    together = on_processes(size, architecture, tmp_path, sync_bn=sync_bn)
    for name, expected in alone.items():
        for rank, found in enumerate(together):
            torch.testing.assert_close(
                found[name],
                expected,
                rtol=1e-4,
                atol=1e-5,
                msg=lambda text, rank=rank, name=name: f"{rank} {name} {text}",
            )
            assert torch.equal(found[name], together[0][name]), f"workers disagree about {name}"


def test_the_same_run_twice_is_the_same_to_the_last_bit() -> None:
    first, second = train(World(), "yolo11n-pose"), train(World(), "yolo11n-pose")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_with_sync_bn_statistics_are_those_of_the_global_batch() -> None:
    """Of several virtual workers as of one: their losses differ, what the first layer sees does not."""
    model = build_model(ModelSpec("yolo11n-pose", SKELETON, ("thing",)), TrainConfig(), seed=0)
    first = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    images = [micro_batch(0, lane).targets["img"] for lane in range(LANES)]
    set_train_mode(model)
    with torch.no_grad():
        model(torch.cat(images))
    assert first.running_mean is not None
    expected = first.running_mean.clone()
    found = train(World(), "yolo11n-pose", sync_bn=True, steps=1)["model.model.0.bn.running_mean"]
    torch.testing.assert_close(found, expected)


def test_a_compiled_model_takes_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured, but run by torch's own kernels: generating others takes minutes on a processor."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    expected, found = (train(World(), "yolo11n-pose", compiled=compiled, steps=1) for compiled in (False, True))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
