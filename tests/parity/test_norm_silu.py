"""BatchNorm and SiLU in one go, against PyTorch's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from raypose.config.schema import TrainConfig
from raypose.engine.average import WeightAverage
from raypose.engine.precision import Precision
from raypose.engine.schedule import Schedule
from raypose.engine.step import TrainStep
from raypose.engine.world import World
from raypose.model import (
    ModelSpec,
    build_model,
    build_optimizer,
    compute_loss,
    inference_view,
    multiplies_bfloat16,
    normalise_in_one_go,
    targets_from_batch,
)
from raypose.model.vendor import Conv, DWConv
from raypose.structures import COCO_PERSON
from tests.parity.conftest import random_batch

pytestmark = pytest.mark.skipif(
    not multiplies_bfloat16("cpu"), reason="this CPU has no bfloat16 arithmetic (avx512_bf16 or amx)"
)

ROUNDING = 2**-8
"""How far from itself bfloat16 may put a number, as a part of it."""
Outcome = dict[str, Tensor]


def layer(channels: int, seed: int = 0) -> Any:
    """With a convolution that changes nothing, so that its input is what is normalised."""
    made: Any = Conv(channels, channels, 1)
    generator = torch.Generator().manual_seed(seed)
    made.conv = nn.Identity()
    with torch.no_grad():
        made.bn.weight.copy_(torch.rand(channels, generator=generator) + 0.5)
        made.bn.bias.copy_(torch.randn(channels, generator=generator) * 0.2)
    made.bn.momentum, made.bn.eps = 0.03, 1e-3
    return made.train()


def untrained(architecture: str, seed: int) -> nn.Module:
    model = build_model(ModelSpec(architecture, COCO_PERSON, ("person",)), TrainConfig(imgsz=96), seed)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def in_one_go(module: nn.Module) -> nn.Module:
    changed = copy.deepcopy(module)
    normalise_in_one_go(changed)
    kinds = [{type(part) for part in each.modules()} for each in (changed, module)]
    assert kinds[0] - kinds[1], "nothing was changed"
    return changed


def outcome(module: Any, image: Tensor, gradient: Tensor) -> Outcome:
    """Everything that a step of training sees of the layer."""
    image = image.clone().requires_grad_()
    output = module(image)
    output.backward(gradient.to(output.dtype))
    assert image.grad is not None
    return {
        "output": output.detach(),
        "image": image.grad,
        "weight": module.bn.weight.grad,
        "bias": module.bn.bias.grad,
        "mean": module.bn.running_mean,
        "variance": module.bn.running_var,
    }


def random_image(shape: tuple[int, ...], seed: int, mean: float = 0.3, deviation: float = 2.0) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (drawn * deviation + mean).bfloat16().contiguous(memory_format=torch.channels_last)


def exact(module: Any, image: Tensor, gradient: Tensor) -> Outcome:
    return outcome(copy.deepcopy(module).double(), image.double(), gradient.double())


def furthest(found: Tensor, expected: Tensor) -> float:
    """As a part of the largest number expected."""
    return float((found.double() - expected).abs().max() / expected.abs().max())


@given(
    images=st.integers(1, 3),
    channels=st.integers(1, 70),
    height=st.integers(1, 9),
    width=st.integers(2, 9),
    seed=st.integers(0, 99),
)
def test_it_is_exact_to_the_rounding_of_its_results(
    images: int, channels: int, height: int, width: int, seed: int
) -> None:
    module = layer(channels, seed)
    image, gradient = (random_image((images, channels, height, width), seed + part) for part in (0, 1))
    found, expected = outcome(in_one_go(module), image, gradient), exact(module, image, gradient)
    assert found["output"].dtype == found["image"].dtype == torch.bfloat16
    assert found["output"].is_contiguous(memory_format=torch.channels_last)
    assert furthest(found["output"], expected["output"]) < 1.01 * ROUNDING
    if images * height * width >= 16:  # of fewer pixels little is left of it, once their mean is taken off
        assert furthest(found["image"], expected["image"]) < 3 * ROUNDING
    for name in ("weight", "bias", "mean", "variance"):
        assert furthest(found[name], expected[name]) < 1e-3  # sums of few numbers, some of which cancel out


@pytest.mark.parametrize("shape", [(8, 16, 40, 40), (2, 51, 20, 20), (4, 256, 10, 10)])
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (100.0, 1.0), (-0.01, 1e-3), (0.0, 50.0)])
def test_it_is_no_further_from_exact_than_pytorch(shape: tuple[int, ...], mean: float, deviation: float) -> None:
    module = layer(shape[1])
    image, gradient = random_image(shape, 1, mean, deviation), random_image(shape, 2, 0.0, 1.0)
    expected = exact(module, image, gradient)
    ours, pytorchs = outcome(in_one_go(module), image, gradient), outcome(copy.deepcopy(module), image, gradient)
    for name, value in expected.items():
        assert furthest(ours[name], value) <= 1.1 * furthest(pytorchs[name], value) + 2e-5, name


def test_a_gradient_that_lies_elsewhere_in_memory_is_read_right() -> None:
    """That of a part of a concatenation is a window of a larger one, that of a sum a single number."""
    module, image = layer(16), random_image((2, 16, 8, 8), 0)
    wide = random_image((2, 48, 8, 8), 1)
    window = wide[:, 16:32]
    assert not window.is_contiguous(memory_format=torch.channels_last)
    for gradient in (window, window.contiguous(), torch.ones(1, dtype=torch.bfloat16).expand(2, 16, 8, 8)):
        dense = gradient.contiguous(memory_format=torch.channels_last)
        found, expected = (outcome(in_one_go(module), image, each) for each in (gradient, dense))
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    """The guard of the loss looks for it."""
    module, image = layer(16), random_image((2, 16, 8, 8), 0)
    gradient = torch.ones_like(image)
    damaged = image.clone()
    damaged[1, 3, 5, 5] = bad
    found = outcome(in_one_go(module), damaged, gradient)
    assert not torch.isfinite(found["output"][:, 3]).any()
    assert torch.isfinite(found["output"][:, :3]).all()
    gradient[0, 2, 0, 0] = bad
    assert not torch.isfinite(outcome(in_one_go(module), image, gradient)["weight"][2])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda module: module.eval(), id="evaluation"),
        pytest.param(lambda module: setattr(module, "act", nn.ReLU()), id="another activation"),
        pytest.param(lambda module: setattr(module, "bn", nn.Identity()), id="no BatchNorm"),
    ],
)
def test_other_layers_stay_what_they_were(change: Callable[[Any], Any]) -> None:
    module = layer(16)
    change(module)
    changed = copy.deepcopy(module)
    normalise_in_one_go(changed)
    image = random_image((2, 16, 8, 8), 0)
    assert torch.equal(changed(image), module(image))


def test_a_single_number_a_channel_has_no_variance() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        in_one_go(layer(4))(random_image((1, 4, 1, 1), 0))


@pytest.mark.parametrize("architecture", ["yolo11n-pose", "yolov8n-pose", "yolo26n-pose"])
def test_a_model_is_closer_to_float32_than_with_pytorchs_layers(architecture: str) -> None:
    """Untrained models multiply rounding errors, so one tells little: the mean of several does."""
    errors = [_errors_of_predictions(architecture, seed) for seed in range(5)]
    ours, pytorchs = (sum(error) / len(error) for error in zip(*errors, strict=True))
    assert ours < pytorchs < 0.1


def _errors_of_predictions(architecture: str, seed: int) -> tuple[float, float]:
    model = untrained(architecture, seed)
    changed = in_one_go(model)
    image = torch.rand(4, 3, 128, 128, generator=torch.Generator().manual_seed(seed))

    def predictions(of: nn.Module, *, bfloat16: bool) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            found = of(image)
        found = found.get("one2many", found)
        return torch.cat([found[name].float().flatten() for name in ("boxes", "scores", "kpts")])

    expected = predictions(copy.deepcopy(model), bfloat16=False)
    own, other = (predictions(of, bfloat16=True) - expected for of in (changed, model))
    return float(own.norm() / expected.norm()), float(other.norm() / expected.norm())


def test_the_same_parameters_learn_and_validation_sees_the_same_model() -> None:
    model = untrained("yolo11n-pose", 0)
    changed = in_one_go(model)
    targets = targets_from_batch(random_batch(17), "cpu")
    for each in (model, changed):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, _ = compute_loss(each, targets)
        torch.autograd.backward(loss)
    learns, learns_too = ({n: p.grad is not None for n, p in each.named_parameters()} for each in (model, changed))
    assert learns_too == learns
    changed.load_state_dict(model.state_dict())
    image = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(inference_view(changed).eval()(image)[0], inference_view(model).eval()(image)[0])


@pytest.mark.parametrize(
    ("settings", "precision", "threads", "expected"),
    [
        ({}, "bfloat16", 1, True),
        ({}, "bfloat16", 2, False),
        ({}, "float32", 1, False),
        ({"sync_bn": True}, "bfloat16", 1, False),
        ({"compile": True}, "bfloat16", 1, False),
    ],
)
def test_where_it_is_used(settings: dict[str, bool], precision: Any, threads: int, expected: bool) -> None:
    train = TrainConfig(imgsz=96, **settings)
    model = build_model(ModelSpec("yolo11n-pose", COCO_PERSON, ("person",)), train, seed=0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        TrainStep(
            model=model,
            optimizer=build_optimizer(model, train, 8),
            average=WeightAverage(model, decay=0.9, tau=1.0),
            schedule=Schedule.of(train, samples=12, total_steps=8, warmup_bias_lr=0.1),
            precision=Precision(precision, "cpu"),
            train=train,
            lanes=1,
            world=World(),
        )
    finally:
        torch.set_num_threads(before)
    kinds = {type(module) for module in model.modules() if isinstance(module, Conv)}
    assert (kinds <= {Conv, DWConv}) != expected
