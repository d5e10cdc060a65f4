"""The loss and its gradients are those of Ultralytics' own trainer, for the same weights and batch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.models.yolo.pose import PoseTrainer

from raypose.config.schema import TrainConfig
from raypose.model import ModelSpec, build_model, compute_loss, loss_names, set_epoch, targets_from_batch
from tests.parity.conftest import random_batch

GAINS = {"box": 6.0, "cls": 0.7, "dfl": 1.2, "pose": 10.0, "kobj": 1.5, "rle": 0.8}
EPOCHS = 10


def model_of_ultralytics(spec: ModelSpec, weights: nn.Module) -> nn.Module:
    """As its pose trainer sets one up, with the settings a user would give for the same data."""
    trainer = PoseTrainer.__new__(PoseTrainer)
    trainer.args = get_cfg(overrides={"epochs": EPOCHS, **GAINS})
    trainer.data = {
        "nc": 1,
        "names": {0: "person"},
        "channels": 3,
        "kpt_shape": [spec.skeleton.keypoints, 3],
        "kpt_oks_sigmas": spec.skeleton.sigmas,
    }
    trainer.model = trainer.get_model(cfg=f"{spec.architecture}.yaml", verbose=False)
    trainer.set_model_attributes()
    trainer.model.load_state_dict(weights.state_dict())
    return trainer.model


def batch_of_ultralytics(spec: ModelSpec) -> dict[str, Tensor]:
    raw = random_batch(spec.skeleton.keypoints)
    batch = {
        "img": torch.from_numpy(raw.image_B3HW),
        "cls": torch.from_numpy(raw.class_N).float()[:, None],
        "bboxes": torch.from_numpy(raw.box_cxcywh_N4),
        "keypoints": torch.from_numpy(raw.keypoints_NK3),
        "batch_idx": torch.from_numpy(raw.image_index_N).float(),
    }
    trainer = SimpleNamespace(device=torch.device("cpu"), args=SimpleNamespace(multi_scale=0.0), data={})
    return PoseTrainer.preprocess_batch(trainer, batch)


@pytest.mark.parametrize("epoch", [0, 6])
def test_loss_terms_and_gradients_equal_those_of_ultralytics(spec: ModelSpec, epoch: int) -> None:
    ours = build_model(spec, TrainConfig(epochs=EPOCHS, **GAINS), seed=3)
    theirs = model_of_ultralytics(spec, ours)

    set_epoch(ours, epoch, EPOCHS)
    targets = targets_from_batch(random_batch(spec.skeleton.keypoints), "cpu")
    targets["img"] = targets["img"].contiguous()  # as theirs lies: the order of memory is that of sums
    loss, terms = compute_loss(ours, targets)
    loss.backward()

    theirs.criterion = theirs.init_criterion()
    for _ in range(epoch if hasattr(theirs.criterion, "update") else 0):
        theirs.criterion.update()
    their_loss, their_terms = theirs(batch_of_ultralytics(spec))
    their_loss.sum().backward()

    torch.testing.assert_close(loss, their_loss.sum(), rtol=1e-6, atol=0.0)
    assert loss_names(ours) == tuple(their_terms)
    torch.testing.assert_close(terms, torch.stack(list(their_terms.values())), rtol=1e-6, atol=1e-9)
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        expected = gradients[name].grad
        assert (parameter.grad is None) == (expected is None), name
        if expected is not None:
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-7, msg=name)


def test_the_loss_is_multiplied_by_the_number_of_images_and_the_terms_are_not(spec: ModelSpec) -> None:
    if spec.architecture.startswith("yolo26"):
        pytest.skip("its terms leave out one of the two heads that the loss adds up")
    model = build_model(spec, TrainConfig(), seed=3)
    loss, terms = compute_loss(model, targets_from_batch(random_batch(spec.skeleton.keypoints), "cpu"))
    torch.testing.assert_close(loss.detach(), terms.sum() * 3)


def test_the_loss_of_an_epoch_does_not_depend_on_the_epochs_before(spec: ModelSpec) -> None:
    targets = targets_from_batch(random_batch(spec.skeleton.keypoints), "cpu")
    resumed, continued = (build_model(spec, TrainConfig(epochs=EPOCHS), seed=3) for _ in range(2))
    for epoch in range(8):
        set_epoch(continued, epoch, EPOCHS)
    set_epoch(resumed, 7, EPOCHS)
    assert compute_loss(resumed, targets)[0] == compute_loss(continued, targets)[0]


def test_a_batch_without_people_still_gives_every_head_a_gradient(spec: ModelSpec) -> None:
    model = build_model(spec, TrainConfig(), seed=3)
    targets = targets_from_batch(random_batch(spec.skeleton.keypoints), "cpu")
    empty = {name: value if name == "img" else value[:0] for name, value in targets.items()}
    loss, _ = compute_loss(model, empty)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def terms_with(spec: ModelSpec, **weights: dict[str, float]) -> dict[str, float]:
    model = build_model(spec, TrainConfig(**weights), seed=3)
    _, terms = compute_loss(model, targets_from_batch(random_batch(spec.skeleton.keypoints), "cpu"))
    return dict(zip(loss_names(model), terms.tolist(), strict=True))


def test_a_keypoint_counts_by_its_weight_and_the_others_as_before(spec: ModelSpec) -> None:
    first, second = spec.skeleton.names[:2]
    plain = terms_with(spec)
    heavy = [terms_with(spec, keypoint_weights=weights) for weights in ({first: 3.0}, {second: 5.0})]
    both = terms_with(spec, keypoint_weights={first: 3.0, second: 5.0})
    names = ["pose_loss", *(["rle_loss"] if "rle_loss" in plain else [])]
    for name in names:
        added = [one[name] - plain[name] for one in heavy]
        assert all(abs(part) > 1e-4 * abs(plain[name]) for part in added)
        assert both[name] - plain[name] == pytest.approx(sum(added), rel=1e-3)
    for name in plain.keys() - set(names):
        assert both[name] == pytest.approx(plain[name], rel=1e-6)


def test_class_weights_are_those_that_ultralytics_gives_its_own_loss(spec: ModelSpec) -> None:
    plain, heavy = terms_with(spec), terms_with(spec, class_weights={spec.class_names[0]: 2.5})
    assert heavy["cls_loss"] == pytest.approx(2.5 * plain["cls_loss"], rel=1e-5)
    assert heavy["box_loss"] == pytest.approx(plain["box_loss"], rel=1e-6)
