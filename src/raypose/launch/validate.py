"""Who predicts a shard set for validation: this process, or Ray tasks on this machine or all over a cluster."""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raypose.data.build.runners import in_order
from raypose.data.shard_set import ShardSet
from raypose.engine.candidate import Candidate
from raypose.engine.validate import chunks_of, decoding_threads, predict_chunks
from raypose.errors import ConfigError
from raypose.inference import Predictor
from raypose.launch.cluster import ray_cluster
from raypose.launch.nodes import alive_nodes, gpus_of, share_for, uses_gpu
from raypose.launch.spread import RayTasks
from raypose.structures import ImageResult

_PIECES_A_WORKER = 4
"""So that a slow worker holds up the end by a quarter of its share at most, and a lost node costs no more."""


def predict_set(
    candidate: Candidate, predictor: Predictor, shards: ShardSet, *, batch: int, workers: int | None
) -> Iterator[ImageResult]:
    """What is labelled and what is predicted in each image, in order: by `predictor` here, or by workers on Ray.

    `predictor` is the opened `candidate`.
    """
    for name, value in (("batch", batch), ("workers", workers)):
        if value is not None and value < 1:
            raise ConfigError(f"val: {name} {value} predicts nothing; use 1 or more")
    if workers is not None:
        return predict_on_ray(candidate, shards, batch=batch, workers=workers)
    threads = decoding_threads(predictor, processes=1)
    return predict_chunks(predictor, shards, chunks_of(len(shards), batch), threads=threads)


def predict_on_ray(candidate: Candidate, shards: ShardSet, *, batch: int, workers: int) -> Iterator[ImageResult]:
    """What is labelled and what is predicted in each image, in the order of the set.

    `workers` pieces are predicted at a time, with a GPU each where the cluster has some and the device allows, else
    with as many CPUs as each can have on its node. The results do not depend on `workers`. Raises ConfigError where
    nodes would compute in different ways.
    """
    chunks = chunks_of(len(shards), batch)
    size = max(1, len(chunks) // (workers * _PIECES_A_WORKER))
    pieces = [chunks[start : start + size] for start in range(0, len(chunks), size)]
    with ray_cluster(max(os.cpu_count() or 1, workers)):
        tasks = _tasks(candidate.device, workers)
        work = _PredictPiece(candidate, shards, int(tasks.cpus), secrets.token_hex(8))
        arithmetic: set[str] = set()
        for predicted in in_order(tasks.run(work, pieces)):
            arithmetic.add(predicted.arithmetic)
            if len(arithmetic) > 1:
                raise ConfigError(
                    f"val: some workers compute in {' and others in '.join(sorted(arithmetic))}, so the numbers would"
                    " depend on who predicts what; choose one with --device and --precision"
                )
            yield from predicted.results


def _tasks(device: str, workers: int) -> RayTasks:
    nodes = alive_nodes()
    gpus = int(gpus_of(nodes)) if uses_gpu(nodes, device) else 0
    # A worker has a GPU to itself: where there are fewer of them, the others wait for their turn.
    cpus, each_gpus = share_for(nodes, min(workers, gpus or workers), device)
    return RayTasks(workers, cpus=cpus, gpus=each_gpus)


@dataclass(frozen=True, slots=True)
class _Predicted:
    results: list[ImageResult]
    arithmetic: str
    """Device and precision: what must be the same everywhere."""


@dataclass(frozen=True, slots=True)
class _PredictPiece:
    """Predicts chunks of the set in a worker process, which keeps the model from one piece to the next."""

    candidate: Candidate
    shards: ShardSet
    cpus: int
    validation: str
    """Unlike in every other validation: a process that goes on to the next one must not keep a model of the last."""

    def __call__(self, chunks: Sequence[range]) -> _Predicted:
        import torch

        torch.set_num_threads(self.cpus)
        predictor = _opened(self.candidate, self.validation)
        threads = decoding_threads(predictor, processes=max(1, (os.cpu_count() or 1) // self.cpus))
        results = list(predict_chunks(predictor, self.shards, chunks, threads=threads))
        return _Predicted(results, f"{predictor.precision} on {predictor.device_type}")


@functools.lru_cache(maxsize=1)
def _opened(candidate: Candidate, validation: str) -> Predictor:
    return candidate.open()
