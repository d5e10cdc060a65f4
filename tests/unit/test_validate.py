"""A set is predicted to the same last bit, whoever predicts which part of it with how many threads."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from raypose.config.schema import TrainConfig
from raypose.data.shard_set import ShardSet
from raypose.engine.validate import chunks_of, predict_chunks, validate
from raypose.engine.world import World
from raypose.inference import ComputePrecision, Predictor
from raypose.inference.backends import TorchBackend
from raypose.model import ExportMetadata, ModelSpec, build_model, compute_in_bfloat16
from raypose.structures import COCO_PERSON, ImageArray, ImageResult
from tests.data_sets import build_synthetic

SPEC = ModelSpec("yolo11n-pose", COCO_PERSON, ("person",))
BATCH = 3


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return ShardSet.open(str(build_synthetic(tmp_path_factory.mktemp("data"), train=1, val=11) / "val"))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_model(SPEC, TrainConfig(), seed=0)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def predictor_of(model: nn.Module, precision: ComputePrecision = "float32") -> Predictor:
    return Predictor.from_model(model, SPEC, 96, conf=0.0, max_det=20, precision=precision)


def bits(results: list[ImageResult]) -> dict[str, list[bytes]]:
    found = {result.id: result.poses for result in results}
    return {
        name: [column.tobytes() for column in (poses.box_xyxy_N4, poses.score_N, poses.keypoints_NK3)]
        for name, poses in found.items()
    }


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_one_to_four_workers_of_one_to_three_threads_predict_the_same_bits(
    model: nn.Module, shards: ShardSet, precision: ComputePrecision
) -> None:
    chunks, seen = chunks_of(len(shards), BATCH), []
    for workers, threads in ((1, 1), (1, 3), (2, 2), (4, 1)):
        torch.set_num_threads(threads)
        results = []
        for rank in range(workers):
            mine = [chunks[number] for number in World(rank, workers).share(len(chunks))]
            results += list(predict_chunks(predictor_of(model, precision), shards, mine))
        seen.append(bits(results))
    assert len(seen[0]) == 11
    assert all(each == seen[0] for each in seen[1:])


def test_predicting_leaves_the_number_of_threads_as_it_was(model: nn.Module, shards: ShardSet) -> None:
    torch.set_num_threads(2)
    list(predict_chunks(predictor_of(model), shards, chunks_of(len(shards), BATCH)))
    assert torch.get_num_threads() == 2


def test_results_come_in_the_order_of_the_set_with_their_labels(model: nn.Module, shards: ShardSet) -> None:
    results = list(predict_chunks(predictor_of(model), shards, chunks_of(len(shards), BATCH)))
    for sample, result in zip(shards, results, strict=True):
        assert (result.id, result.width, result.height) == (sample.id, sample.width, sample.height)
        np.testing.assert_array_equal(result.people.keypoints_NK3, sample.people.keypoints_NK3)
        assert 0 < len(result.poses) <= 20


def test_a_worker_without_a_share_is_fine(model: nn.Module, shards: ShardSet) -> None:
    assert list(predict_chunks(predictor_of(model), shards, [])) == []
    evaluation = validate(predictor_of(model), shards, World(), batch=100)
    assert evaluation is not None
    assert evaluation.metrics["images"] == 11


@given(st.integers(0, 500), st.integers(1, 64), st.integers(1, 40))
def test_workers_share_all_chunks_and_differ_by_at_most_one(images: int, batch: int, workers: int) -> None:
    chunks = chunks_of(images, batch)
    assert [place for chunk in chunks for place in chunk] == list(range(images))
    shares = [World(rank, workers).share(len(chunks)) for rank in range(workers)]
    assert [number for share in shares for number in share] == list(range(len(chunks)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_images_of_many_shapes_are_predicted_without_benchmarks(
    model: nn.Module, shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cuDNN measures once for the batches of training, it would measure anew for each chunk."""
    seen: list[bool] = []
    forward = TorchBackend.__call__

    def watched(self: TorchBackend, canvas_BHW3: ImageArray) -> Tensor:
        seen.append(torch.backends.cudnn.benchmark)
        return forward(self, canvas_BHW3)

    monkeypatch.setattr(TorchBackend, "__call__", watched)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    validate(predictor_of(model), shards, World(), batch=BATCH)
    assert set(seen) == {False}
    assert torch.backends.cudnn.benchmark


def test_a_predictor_that_is_not_needed_any_more_frees_its_memory_at_once(model: nn.Module) -> None:
    """There is one after each epoch, and who runs out of a GPU's memory does not ask Python for its garbage."""
    gc.collect()
    gc.disable()
    try:
        used = copy.deepcopy(model)
        compute_in_bfloat16(used)
        with torch.inference_mode():
            used.eval()(torch.zeros(1, 3, 64, 64))
        backend = TorchBackend(used, ExportMetadata(SPEC, 64, dynamic=True, end2end=False))
        twin, weight = backend.twin(), weakref.ref(list(used.parameters())[-1])  # of the head
        del used, backend, twin
        assert weight() is None
    finally:
        gc.enable()
