"""From a configuration to the parts of a run. The loop only uses what is made here."""

from __future__ import annotations

import hashlib
import os
import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from raypose.checkpoint import CheckpointStore, RunIdentity, TrainProgress, local_model
from raypose.config import RunConfig
from raypose.data.cache import NodeCache, cache_folder
from raypose.data.loader import TrainLoader
from raypose.data.pixel_cache import PixelCache
from raypose.data.plan import Plan
from raypose.data.shard_set import ShardSet
from raypose.data.training_batch import HandOver
from raypose.engine.average import WeightAverage
from raypose.engine.feed import Feed
from raypose.engine.precision import Precision
from raypose.engine.restore import newest_for_all, restore
from raypose.engine.schedule import Schedule
from raypose.engine.step import TrainStep
from raypose.engine.world import World
from raypose.evaluate import Judge
from raypose.evaluate.sigmas import missing_sigmas
from raypose.inference import Predictor
from raypose.model import (
    ModelSpec,
    OptimizerChoice,
    build_model,
    build_optimizer,
    choose_optimizer,
    freeze_layers,
    load_pretrained,
    set_train_mode,
)
from raypose.storage import ObjectStore
from raypose.telemetry import Notice, Reporter
from raypose.vision.device_decode import decodes_jpegs


@dataclass(frozen=True)
class Parts:
    """Everything a run is made of, ready to go from `progress`."""

    config: RunConfig
    world: World
    store: ObjectStore
    checkpoints: CheckpointStore
    identity: RunIdentity
    spec: ModelSpec
    train_set: ShardSet
    val_set: ShardSet
    plan: Plan
    choice: OptimizerChoice
    train_step: TrainStep
    judge: Judge
    progress: TrainProgress

    @property
    def model(self) -> nn.Module:
        return self.train_step.model

    @property
    def average(self) -> WeightAverage:
        return self.train_step.average

    @property
    def total_steps(self) -> int:
        return self.plan.steps_of(self.config.train.epochs)

    def loader(self, start_step: int) -> TrainLoader:
        """This worker's batches from `start_step` to the end of the run."""
        config = self.config
        return TrainLoader(
            self.train_set,
            self.plan,
            self.world.lanes(config.scaling.lanes),
            config.augment,
            imgsz=config.train.imgsz,
            seed=config.train.seed,
            epochs=config.train.epochs,
            start_step=start_step,
            end_step=self.total_steps,
            loader_workers=_loader_workers(config, self.world),
            threads=torch.get_num_threads(),  # which wait for the batch, and the model's have no other work
            kind=config.data.loader,
            batches_ahead=config.data.batches_ahead,
            max_bad_fraction=config.data.max_bad_fraction,
            pin_memory=self.world.device.startswith("cuda"),
            hand_over=_hand_over(config, self.world),
            pixels=_pixel_cache(config, self.train_set),
        )

    def feed(self, start_step: int) -> Feed:
        """The same batches, as the training step takes them."""
        return Feed(self.loader(start_step), self.world.device, self.config.train.imgsz)

    def predictor(self, module: nn.Module) -> Predictor:
        """`module` as validation uses it: every confidence that AP looks at."""
        val = self.config.val
        return Predictor.from_model(
            module,
            self.spec,
            imgsz=self.config.train.imgsz,
            device=self.world.device,
            conf=val.conf,
            iou=val.iou,
            max_det=val.max_det,
            precision=self.train_step.precision.name,
        )


def prepare(config: RunConfig, world: World, store: ObjectStore, report: Reporter) -> Parts:
    """Open the data, build model and optimizer, and continue from the newest sound checkpoint if there is one."""
    make_deterministic(config.train.seed, enabled=config.train.deterministic)
    cache = NodeCache(cache_folder(config.data.cache_dir), config.data.cache_bytes)
    train_set, val_set = ShardSet.open(config.data.train, cache), ShardSet.open(config.data.val, cache)
    judge = _judge(config, val_set, report)
    identity = identity_of(config, train_set)
    spec = ModelSpec(config.model.architecture, train_set.skeleton, train_set.class_names)
    plan = _plan(config, train_set)
    _check_cache(train_set, val_set, plan, world, report)
    checkpoints = CheckpointStore(store)
    snapshot = newest_for_all(checkpoints, world, lambda text: report(Notice(text)))
    model = build_model(spec, config.train, seed=config.train.seed)
    if snapshot is None and config.model.pretrained:
        with local_model(config.model.pretrained) as weights:
            report(Notice(str(load_pretrained(model, weights, named=config.model.pretrained))))
    first_step = 0 if snapshot is None else snapshot.progress.step
    freeze_layers(model, config.train.frozen_in(plan.epochs_completed(first_step)))
    model = model.to(device=world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    set_train_mode(model)
    choice = choose_optimizer(config.train, len(spec.class_names), plan.steps_of(config.train.epochs))
    train_step = _train_step(config, world, plan, model, choice)
    progress = TrainProgress()
    if snapshot is not None:
        snapshot.identity.require_same(identity, f"{store.url}: checkpoint of step {snapshot.progress.step}")
        progress = restore(snapshot, model, train_step.average, train_step.optimizer)
        _say_if_computed_otherwise(progress, train_step.precision, report)
    return Parts(
        config=config,
        world=world,
        store=store,
        checkpoints=checkpoints,
        identity=identity,
        spec=spec,
        train_set=train_set,
        val_set=val_set,
        plan=plan,
        choice=choice,
        train_step=train_step,
        judge=judge,
        progress=replace(progress, precision=train_step.precision.name),
    )


def _say_if_computed_otherwise(progress: TrainProgress, precision: Precision, report: Reporter) -> None:
    """`train.precision: auto` may come to something else on the machines that continue a run."""
    if progress.precision not in (None, precision.name):
        report(
            Notice(
                f"this run computed in {progress.precision} up to step {progress.step} and goes on in"
                f" {precision.name}, which is what train.precision: auto comes to here; its weights will not be those"
                " of an uninterrupted run"
            )
        )


def _plan(config: RunConfig, train_set: ShardSet) -> Plan:
    return Plan(
        train_set.shard_sizes,
        seed=config.train.seed,
        batch=config.train.batch,
        lanes=config.scaling.lanes,
        window=config.data.shuffle_window,
    )


def _check_cache(train_set: ShardSet, val_set: ShardSet, plan: Plan, world: World, report: Reporter) -> None:
    """Say before training, and not by its speed, that the node cache is too small."""
    train_set.require_room()
    val_set.require_room()
    in_windows = {shard for lane in world.lanes(plan.lanes) for shard in plan.shards_needed(0, lane)}
    shortage = train_set.shortage(in_windows, processes=world.local_size)
    if shortage is not None:
        report(Notice(shortage))


def _judge(config: RunConfig, val_set: ShardSet, report: Reporter) -> Judge:
    """How the run is measured. Said at the start: that OKS has no sigmas to go by."""
    judge = Judge.of(config.val)
    missing = missing_sigmas(judge.skeleton(val_set.skeleton))
    if missing is not None:
        report(Notice(missing))
    return judge


def _train_step(config: RunConfig, world: World, plan: Plan, model: nn.Module, choice: OptimizerChoice) -> TrainStep:
    total_steps = plan.steps_of(config.train.epochs)
    return TrainStep(
        model=model,
        optimizer=build_optimizer(model, config.train, total_steps),
        average=WeightAverage(model, decay=config.train.ema_decay, tau=config.train.ema_tau),
        schedule=Schedule.of(
            config.train,
            samples=plan.samples,
            total_steps=total_steps,
            warmup_bias_lr=choice.warmup_bias_lr,
        ),
        precision=Precision.agreed(config.train.precision, world),
        train=config.train,
        lanes=config.scaling.lanes,
        world=world,
    )


def identity_of(config: RunConfig, train_set: ShardSet) -> RunIdentity:
    """What a checkpoint must share with this run to be continued by it."""
    digests = "".join(shard.sha256 for shard in train_set.manifest.shards)
    return RunIdentity(
        architecture=config.model.architecture,
        skeleton=train_set.skeleton,
        class_names=train_set.class_names,
        imgsz=config.train.imgsz,
        recipe_digest=config.recipe_digest(),
        train_digest=hashlib.sha256(digests.encode()).hexdigest(),
    )


def make_deterministic(seed: int, *, enabled: bool) -> None:
    """Seed every global generator. Only the first weights come from one: batches and augmentation have their own."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    # Asked for again on every start, because a worker process may serve several runs.
    # This tells PyTorch alone: `use_deterministic_algorithms` would import the compiler to tell it, too.
    torch.set_deterministic_debug_mode("warn" if enabled else "default")
    if enabled:
        # cuBLAS reads it when it is first used. Else it may choose another algorithm while another stream is busy.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # With them come NaNs in all new memory, for code that reads what it has not written: a tenth of a step on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not enabled


def _hand_over(config: RunConfig, world: World) -> HandOver:
    if not config.train.device_augment:
        return "pictures"
    return "files" if decodes_jpegs(torch.device(world.device)) else "pixels"


def _pixel_cache(config: RunConfig, train_set: ShardSet) -> PixelCache | None:
    if not config.data.pixel_cache_bytes:
        return None
    folder = cache_folder(config.data.cache_dir) / "pixels"
    return PixelCache(folder, config.data.pixel_cache_bytes, train_set, config.train.imgsz)


def _loader_workers(config: RunConfig, world: World) -> int:
    wanted = config.data.loader_workers
    if wanted != "auto":
        return wanted
    if not world.device.startswith("cuda"):
        return 0
    return max(1, min(8, (os.cpu_count() or 1) // max(torch.cuda.device_count(), 1) - 1))
