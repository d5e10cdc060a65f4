"""The largest batch that a GPU has room for, measured with real steps."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from raypose.config import RunConfig
from raypose.data.shard_set import ShardSet
from raypose.engine.setup import prepare
from raypose.engine.world import World
from raypose.errors import ConfigError, TrainingError
from raypose.storage.local import LocalStore
from raypose.telemetry import Event

ROOM = 0.8
"""Of the memory that is free: images with more people and other sizes take more than those that were tried."""
STEPS = 3
"""After two, optimizer and moving average have their memory; the third is what all others are like."""
MOST_IMAGES = 1024


@dataclass(frozen=True, slots=True)
class RoomForBatch:
    """What was found for one GPU."""

    micro_batch: int
    batch: int
    """Of all virtual workers, which is `train.batch`."""
    used_bytes: int
    free_bytes: int


def find_batch(config: RunConfig, *, progress: Callable[[int], None] = lambda images: None) -> RoomForBatch:
    """Double the images of a virtual worker until they fill the GPU. Nothing is written.

    Raises ConfigError on a machine without a GPU, whose memory says nothing about which batch is good, and
    TrainingError where not even one image fits.
    """
    if not torch.cuda.is_available():
        raise ConfigError("batch-find: measures the memory of a GPU, and this machine has none; choose train.batch")
    free_bytes, _ = torch.cuda.mem_get_info()

    def used_bytes(images: int) -> int | None:
        progress(images)
        return _peak_bytes(config, images)

    most = min(MOST_IMAGES, len(ShardSet.open(config.data.train)))
    found = largest_that_fits(used_bytes, int(free_bytes * ROOM), most)
    if found is None:
        raise TrainingError(
            f"batch-find: not even one image of {config.train.imgsz} px fits into {free_bytes / 2**30:.1f} GiB;"
            " use a smaller train.imgsz or model.architecture"
        )
    images, used = found
    return RoomForBatch(images, images * config.scaling.lanes, used, free_bytes)


def largest_that_fits(used_bytes: Callable[[int], int | None], room_bytes: int, most: int) -> tuple[int, int] | None:
    """The largest power of two that stays within the room, and what it uses; None where one is too many.

    `used_bytes` is None where memory ran out.
    """
    best, images = None, 1
    while images <= most:
        used = used_bytes(images)
        if used is None or used > room_bytes:
            break
        best = (images, used)
        images *= 2
    return best


def _peak_bytes(config: RunConfig, images: int) -> int | None:
    """What some steps of one virtual worker with so many images take; None where there is not enough."""
    tried = config.model_copy(
        update={
            "train": config.train.model_copy(update={"batch": images, "nbs": images}),
            "scaling": config.scaling.model_copy(update={"workers": 1, "virtual_workers": 1}),
        }
    )
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        with tempfile.TemporaryDirectory(prefix="raypose-batch-") as folder:
            parts = prepare(tried, World(device="cuda:0"), LocalStore(Path(folder)), _ignore)
            for step, batches in zip(range(STEPS), parts.feed(0), strict=False):
                parts.train_step(step, batches, step)
            torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        return None
    return int(torch.cuda.max_memory_reserved())


def _ignore(event: Event) -> None:
    """The measurement has no run whose events anybody waits for."""
