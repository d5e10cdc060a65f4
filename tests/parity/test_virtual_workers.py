"""The same global batches on one, two and three processes: the same training, up to the order of additions."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.optim import Optimizer

from raypose.checkpoint import RunIdentity, Snapshot, TrainProgress
from raypose.config import TrainConfig
from raypose.engine.average import WeightAverage
from raypose.engine.feed import DeviceBatch
from raypose.engine.precision import Precision
from raypose.engine.restore import restore, tensors_of
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


def snapshot_of(model: nn.Module, average: WeightAverage, optimizer: Optimizer) -> Snapshot:
    tensors = tensors_of(model, average, optimizer, gradients=True)
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    return Snapshot(RunIdentity("", SKELETON, ("thing",), 128, "", ""), TrainProgress(), copies, {})


def train(
    world: World, architecture: str, *, steps: int = STEPS, restarting: bool = False, **settings: Any
) -> dict[str, Tensor]:
    """Weights, statistics and moving average after a few steps; or as if all workers began anew before each."""
    torch.set_num_threads(1)
    usual = {"epochs": 1, "batch": 16, "imgsz": 128, "optimizer": "SGD", "lr0": 0.01, "nbs": 16, "warmup_epochs": 0.0}
    config = TrainConfig.model_validate(usual | settings)
    model = build_model(ModelSpec(architecture, SKELETON, ("thing",)), config, seed=0)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as a run has it
    freeze_layers(model, 0)
    set_train_mode(model)
    optimizer, average = build_optimizer(model, config, STEPS), WeightAverage(model, decay=0.9, tau=1.0)
    begin = functools.partial(
        TrainStep,
        model=model,
        optimizer=optimizer,
        average=average,
        schedule=Schedule.of(config, samples=STEPS * 16, total_steps=STEPS, warmup_bias_lr=0.1),
        precision=Precision.choose("float32", "cpu"),
        train=config,
        lanes=LANES,
        world=world,
    )
    step = begin()
    for number in range(steps):
        if restarting:
            snapshot = snapshot_of(model, average, optimizer)
            model.zero_grad(set_to_none=True)
            step = begin()
            restore(snapshot, model, average, optimizer)
        step(number, [micro_batch(number, lane) for lane in world.lanes(LANES)], updates=number)
    return {f"{kind}.{name}": tensor.clone() for kind, module in (("model", model), ("ema", step.average.module))
            for name, tensor in module.state_dict().items()}  # fmt: skip


def work(rank: int, size: int, architecture: str, settings: dict[str, Any], out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=size)
    torch.save(train(World(rank, size), architecture, **settings), f"{out}/{rank}.pt")
    dist.destroy_process_group()


def on_processes(size: int, architecture: str, out: Path, **settings: Any) -> list[dict[str, Tensor]]:
    out.mkdir(exist_ok=True)
    forking()  # the same that `start_processes` will use
    arguments = (size, architecture, settings, str(out))
    mp.start_processes(work, args=arguments, nprocs=size, start_method="forkserver")
    return [torch.load(out / f"{rank}.pt") for rank in range(size)]


@pytest.mark.parametrize(
    ("architecture", "size", "settings"),
    [
        ("yolo11n-pose", 3, {}),
        ("yolo26n-pose", 2, {}),
        ("yolo11n-pose", 2, {"sync_bn": True}),
        ("yolo11n-pose", 2, {"nbs": 32}),  # two batches add up to an update
    ],
)
def test_any_number_of_workers_trains_the_same_model(
    architecture: str, size: int, settings: dict[str, Any], tmp_path: Path
) -> None:
    alone = train(World(), architecture, **settings)
    together = on_processes(size, architecture, tmp_path, **settings)
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


def test_three_workers_that_begin_anew_go_on_to_the_last_bit(tmp_path: Path) -> None:
    """With two there is one order in which to add."""
    whole, parted = (
        on_processes(3, "yolo11n-pose", tmp_path / str(restarting), restarting=restarting, nbs=32)[0]
        for restarting in (False, True)
    )
    assert [name for name in whole if not torch.equal(whole[name], parted[name])] == []


def test_with_sync_bn_gradients_travel_when_layers_have_nothing_more_to_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL wants all exchanges in one order on all workers, and when a gradient is there depends on the batch."""
    of_gradients: list[bool] = []
    all_reduce = dist.all_reduce

    def recorded(tensor: Tensor, **settings: Any) -> Any:
        of_gradients.append("async_op" in settings)
        return all_reduce(tensor, **settings)

    monkeypatch.setattr(dist, "all_reduce", recorded)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        train(World(0, 2), "yolo11n-pose", sync_bn=True, steps=1)
    finally:
        dist.destroy_process_group()
    first = of_gradients.index(True)
    assert sum(of_gradients) > 1
    assert all(of_gradients[first : first + sum(of_gradients)])


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
    expected, found = (train(World(), "yolo11n-pose", compile=compiled, steps=1) for compiled in (False, True))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
