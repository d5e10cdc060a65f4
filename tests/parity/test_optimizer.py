"""Parameter groups, learning rates and the `auto` rule are those of Ultralytics' trainer."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn, optim
from ultralytics.cfg import get_cfg
from ultralytics.engine.trainer import BaseTrainer

from raypose.config.schema import TrainConfig
from raypose.model import (
    ModelSpec,
    build_model,
    build_optimizer,
    choose_optimizer,
    freeze_layers,
)
from tests.parity.conftest import LSP_LIKE

SPEC = ModelSpec("yolo26n-pose", LSP_LIKE, ("person",))


def optimizer_of_ultralytics(model: nn.Module, train: TrainConfig, images: int) -> tuple[optim.Optimizer, object]:
    trainer = SimpleNamespace(args=get_cfg(), data={"nc": 1})
    accumulate = max(round(train.nbs / train.batch), 1)
    optimizer = BaseTrainer.build_optimizer(
        trainer,
        model,
        name=train.optimizer,
        lr=train.lr0,
        momentum=train.momentum,
        decay=train.weight_decay * train.batch * accumulate / train.nbs,
        iterations=math.ceil(images / max(train.batch, train.nbs)) * train.epochs,
    )
    return optimizer, trainer.args


@pytest.mark.parametrize("name", ["auto", "SGD", "MuSGD", "Adam", "AdamW"])
@pytest.mark.parametrize("batch", [16, 24, 128])
def test_groups_equal_those_of_ultralytics(name: str, batch: int) -> None:
    train = TrainConfig(optimizer=name, batch=batch)
    model = build_model(SPEC, train, seed=0)
    images = 5_000
    ours = build_optimizer(model, train, total_steps=math.ceil(images * train.epochs / batch))
    theirs, _ = optimizer_of_ultralytics(model, train, images)
    assert isinstance(ours, type(theirs))
    assert len(ours.param_groups) == len(theirs.param_groups)
    for our_group, their_group in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert [id(parameter) for parameter in our_group["params"]] == [id(p) for p in their_group["params"]]
        # Ultralytics fuses on CUDA only: another way to compute the same update.
        without = {"params": None, "fused": None}
        assert our_group | without == their_group | without


@pytest.mark.parametrize("images", [6_399, 6_400, 6_401, 1_000_000])
def test_auto_chooses_as_ultralytics_does_around_its_threshold(images: int) -> None:
    train = TrainConfig(batch=16, epochs=100)
    model = build_model(SPEC, train, seed=0)
    choice = choose_optimizer(train, classes=1, total_steps=math.ceil(images * train.epochs / train.batch))
    theirs, args = optimizer_of_ultralytics(model, train, images)
    assert choice.name == type(theirs).__name__
    assert (choice.lr0, choice.warmup_bias_lr) == (args.lr0, args.warmup_bias_lr)


@pytest.mark.parametrize("name", ["SGD", "MuSGD", "Adam", "AdamW"])
def test_an_optimizer_restored_from_its_state_takes_the_same_next_step(name: str) -> None:
    train = TrainConfig(optimizer=name)

    def prepared(seed: int) -> tuple[nn.Module, optim.Optimizer]:
        model = build_model(SPEC, train, seed=seed)
        freeze_layers(model, tuple(range(5, 24)))  # MuSGD's matrix products are slow on most CPUs
        return model, build_optimizer(model, train, total_steps=100)

    def step(model: nn.Module, optimizer: optim.Optimizer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()

    first, first_optimizer = prepared(seed=0)
    step(first, first_optimizer, seed=1)
    second, second_optimizer = prepared(seed=7)
    second.load_state_dict(first.state_dict())
    second_optimizer.load_state_dict(copy.deepcopy(first_optimizer.state_dict()))
    step(first, first_optimizer, seed=2)
    step(second, second_optimizer, seed=2)
    restored = second.state_dict()
    assert all(torch.equal(tensor, restored[key]) for key, tensor in first.state_dict().items())


def test_frozen_layers_and_the_dfl_integral_do_not_move() -> None:
    model = build_model(ModelSpec("yolo11n-pose", LSP_LIKE, ("person",)), TrainConfig(), seed=0)
    frozen = freeze_layers(model, 3)
    assert {name.split(".")[1] for name in frozen if ".dfl" not in name} == {"0", "1", "2"}
    assert any(".dfl" in name for name in frozen)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert "model.3.conv.weight" in trainable
    assert not set(trainable) & set(frozen)
    assert freeze_layers(model, (5,))[0].startswith("model.5.")
    assert model.get_parameter("model.0.conv.weight").requires_grad
