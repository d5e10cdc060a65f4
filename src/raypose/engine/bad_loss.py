"""What happens after a loss or gradient that is not finite: its batch is kept, then `train.on_bad_loss` is followed.

A batch is a function of (seed, step, lane), so it is drawn once more to be looked at; nothing is held back for that
while all is well. Every decision is a function of the step and of what the newest checkpoint holds: a run that is
resumed meets the same step again and decides alike.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from raypose.checkpoint import TrainProgress
from raypose.data.training_batch import BatchSource
from raypose.engine.loss_guard import BadStep
from raypose.engine.restore import newest_for_all, restore
from raypose.engine.setup import Parts
from raypose.engine.step import image_size_of
from raypose.errors import StorageError, TrainingError
from raypose.model import loss_names
from raypose.structures import Batch
from raypose.telemetry import Notice, Reporter


def answer_bad_loss(parts: Parts, bad: BadStep, progress: TrainProgress, report: Reporter) -> TrainProgress:
    """Keep the batch of a bad step, then stop (TrainingError), or go on from the progress that is returned.

    All workers call it after the same step, with `progress` as if the step had been trained.
    """
    what = f"step {bad.step}: {_description(parts, bad)}; {_keep_batches(parts, bad)}"
    train = parts.config.train
    if train.on_bad_loss == "stop":
        raise TrainingError(
            f"{what}; the last checkpoint is sound: continue it without this batch with: raypose train --resume"
            f" {shlex.quote(parts.store.url)} train.on_bad_loss=skip; or start a new run with a lower train.lr0"
            " or train.precision=float32"
        )
    progress = replace(progress, bad_steps=progress.bad_steps + 1, bad_steps_in_a_row=progress.bad_steps_in_a_row + 1)
    if progress.bad_steps_in_a_row > train.max_bad_steps:
        raise TrainingError(
            f"{what}; it is number {progress.bad_steps_in_a_row} in a row, train.max_bad_steps allows"
            f" {train.max_bad_steps}: start a new run with a lower train.lr0 or train.precision=float32"
        )
    if train.on_bad_loss == "rollback":
        progress, done = _roll_back(parts, progress, what, report)
    else:
        done = "the step is skipped"
    report(Notice(f"{what}; {done} ({progress.bad_steps} bad so far)"))
    return progress


def _roll_back(parts: Parts, progress: TrainProgress, what: str, report: Reporter) -> tuple[TrainProgress, str]:
    """The newest checkpoint's weights, optimizer and average, and the data that follows the bad step."""
    snapshot = newest_for_all(parts.checkpoints, parts.world, lambda text: report(Notice(text)))
    if snapshot is None:
        raise TrainingError(
            f"{what}; there is no checkpoint yet to roll back to: start a new run with a lower train.lr0 or"
            " checkpoint.every_steps"
        )
    # Gradients that were adding up belong to batches whose update will not come.
    tensors = {name: tensor for name, tensor in snapshot.tensors.items() if not name.startswith("gradient.")}
    train_step = parts.train_step
    restore(replace(snapshot, tensors=tensors), train_step.model, train_step.average, train_step.optimizer)
    train_step.optimizer.zero_grad(set_to_none=False)
    done = f"weights go back to those of step {snapshot.progress.step}, data goes on at step {progress.step}"
    return replace(progress, updates=snapshot.progress.updates), done


def _description(parts: Parts, bad: BadStep) -> str:
    if bad.in_gradient_only:
        return "the gradient is not finite, though the losses are"
    gathered = parts.world.gather(bad.losses_LT.sum(dim=0).cpu())
    means = [] if gathered is None else (sum(gathered[1:], gathered[0]) / parts.plan.lanes).tolist()
    losses = ", ".join(f"{name} {value:g}" for name, value in zip(loss_names(parts.model), means, strict=False))
    return parts.world.from_leader(f"the loss is not finite ({losses})")


# --- the batch, for somebody to look at


@dataclass(frozen=True, slots=True)
class _Kept:
    """One micro-batch: the pictures as the model saw them, and where they and their labels came from."""

    lane: int
    pngs: tuple[bytes, ...]
    record: dict[str, Any]


def _keep_batches(parts: Parts, bad: BadStep) -> str:
    """Write the suspects below `bad-batches/` of the run; says where they are, on all workers."""
    places = []
    for step in _suspects(parts, bad):
        gathered = parts.world.gather(list(_redraw(parts, step, bad)))
        if gathered is not None:
            places.append(_write(parts, step, [one for of_worker in gathered for one in of_worker]))
    return parts.world.from_leader(" and ".join(places))


def _suspects(parts: Parts, bad: BadStep) -> Sequence[int]:
    """The steps whose batches may be to blame: all that went into the update where only its gradient tells."""
    first = bad.step
    while bad.in_gradient_only and first > 0 and not parts.train_step.schedule.updates_at(first - 1):
        first -= 1
    return range(first, bad.step + 1)


def _redraw(parts: Parts, step: int, bad: BadStep) -> Iterator[_Kept]:
    """This worker's micro-batches whose loss is not finite, or all of them where every loss is.

    By the processor's reference, also where a GPU draws the pictures for training.
    """
    lanes = tuple(parts.world.lanes(parts.plan.lanes))
    train = parts.config.train
    source = BatchSource(
        parts.train_set, parts.plan, lanes, parts.config.augment, train.imgsz, train.seed, train.epochs, step
    )
    for number, (lane, losses) in enumerate(zip(lanes, bad.losses_LT.tolist(), strict=True)):
        if bad.in_gradient_only or not all(map(math.isfinite, losses)):
            batch = source.make(number, lambda size: np.empty(size, np.uint8)).batch
            assert isinstance(batch, Batch)  # what a source makes unless it is told otherwise
            named = dict(zip(loss_names(parts.model), losses, strict=True)) if step == bad.step else None
            yield _Kept(lane, tuple(map(_png, batch.image_B3HW)), _record(parts, step, lane, batch, named))


def _png(image_3HW: np.ndarray[Any, Any]) -> bytes:
    return cv2.imencode(".png", cv2.merge(list(image_3HW[::-1])))[1].tobytes()


def _record(parts: Parts, step: int, lane: int, batch: Batch, losses: dict[str, float] | None) -> dict[str, Any]:
    shards = parts.train_set.manifest.shards
    samples = []
    for index, (sample_id, ref) in enumerate(zip(batch.ids, parts.plan.references(step, lane), strict=True)):
        mine = batch.image_index_N == index
        samples.append(
            {
                "picture": _picture_name(lane, index),
                "id": sample_id,
                "epoch": ref.epoch,
                "shard": shards[ref.shard].name,
                "index_in_shard": ref.index,
                "classes": batch.class_N[mine].tolist(),
                "boxes_cxcywh": batch.box_cxcywh_N4[mine].tolist(),
                "keypoints": batch.keypoints_NK3[mine].tolist(),
            }
        )
    return {"virtual_worker": lane, "losses": losses and _shown(losses), "samples": samples}


def _shown(losses: dict[str, float]) -> dict[str, float | str]:
    """JSON has no NaN, and here it matters which of the three it was."""
    return {name: value if math.isfinite(value) else str(value) for name, value in losses.items()}


def _picture_name(lane: int, index: int) -> str:
    return f"{lane:04d}-{index:03d}.png"


def _write(parts: Parts, step: int, kept: Sequence[_Kept]) -> str:
    folder = parts.store.child(f"bad-batches/step-{step:08d}")
    try:
        for one in kept:
            for index, png in enumerate(one.pngs):
                folder.write(_picture_name(one.lane, index), png)
        record = {
            "step": step,
            "imgsz": image_size_of(parts.config.train, step),
            "virtual_workers": [one.record for one in kept],
        }
        folder.write("batch.json", json.dumps(record, indent=1).encode())
    except StorageError as error:
        return f"its batch could not be kept ({error})"
    return f"its batch is in {parts.store.place(f'bad-batches/step-{step:08d}')}"
