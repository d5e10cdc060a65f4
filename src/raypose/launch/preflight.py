"""Everything that can be found wrong with a run before Ray starts, all of it at once."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

import numpy as np

from raypose.checkpoint import CheckpointStore, locate_model
from raypose.config import RunConfig
from raypose.data.cache import NodeCache, cache_folder
from raypose.data.shard_set import ShardSet
from raypose.errors import CheckpointError, ConfigError, DataError, ValidatorError
from raypose.evaluate import Judge
from raypose.storage import ObjectStore, require_writable
from raypose.structures import ImageResult, People, Poses


def check_run(config: RunConfig, store: ObjectStore, *, resume: bool) -> None:
    """Raise the first kind of error found: configuration, then data, then state of the run's folder."""
    cache = NodeCache(cache_folder(config.data.cache_dir), config.data.cache_bytes)
    train_set, val_set = ShardSet.open(config.data.train, cache), ShardSet.open(config.data.val, cache)
    _check_fit(config, train_set, val_set)
    train_set.require_room()
    val_set.require_room()
    judge = Judge.of(config.val)
    problems = [
        *_settings_problems(config, metric_names(val_set, judge)),
        *_batch_problems(config, len(train_set)),
        *_weight_problems("train.class_weights", config.train.class_weights, "class", train_set.class_names),
        *_weight_problems(
            "train.keypoint_weights", config.train.keypoint_weights, "keypoint", train_set.skeleton.names
        ),
    ]
    if problems:
        raise ConfigError(problems)
    if resume:
        _check_resumable(config, train_set, store)
    else:
        _check_unused(config, store)
    require_writable(store, "storage")


def metric_names(val_set: ShardSet, judge: Judge) -> list[str]:
    """What validation on this set will measure, found out by a rehearsal.

    Raises ConfigError where a validator fails at it, or the sigmas do not fit.
    """
    try:
        rehearsed = _well_predicted(val_set) if judge.validators else _nothing(val_set.skeleton.keypoints)
        return sorted(judge.measure([rehearsed], val_set.skeleton, val_set.class_names).metrics)
    except ValidatorError as error:
        raise ConfigError(f"val.validators: rehearsed with image {rehearsed.id!r}: {error}") from error


def _nothing(keypoints: int) -> ImageResult:
    return ImageResult("nothing", 1, 1, People.empty(keypoints), Poses.empty(keypoints))


def _well_predicted(val_set: ShardSet) -> ImageResult:
    """The first image, predicted as it is labelled: validators may look images up by their ids."""
    sample = val_set.sample(*val_set.locate(0))
    people = sample.people.select(~sample.people.ignore_N)
    keypoints_NK3 = np.minimum(people.keypoints_NK3, np.array([np.inf, np.inf, 1.0], np.float32))
    poses = Poses(people.box_xyxy_N4, np.ones(len(people), np.float32), people.class_N, keypoints_NK3)
    return ImageResult(sample.id, sample.width, sample.height, sample.people, poses)


def _settings_problems(config: RunConfig, known_metrics: list[str]) -> list[str]:
    problems = []
    if config.checkpoint.best_metric not in known_metrics:
        problems.append(
            f"checkpoint.best_metric: validation measures no {config.checkpoint.best_metric!r};"
            f" choose one of {', '.join(known_metrics)}"
        )
    if config.model.pretrained is not None:
        try:
            locate_model(config.model.pretrained)
        except CheckpointError as error:
            problems.append(f"model.pretrained: {error}")
    return problems


def _batch_problems(config: RunConfig, train_images: int) -> list[str]:
    if config.train.batch <= train_images:
        return []
    lanes = config.scaling.lanes
    return [
        f"train.batch: a batch of {config.train.batch} images is more than the {train_images} of data.train;"
        f" use {max(train_images // lanes, 1) * lanes} or fewer"
    ]


def _weight_problems(key: str, weights: Collection[str], kind: str, names: Sequence[str]) -> list[str]:
    return [
        f"{key}: data.train has no {kind} {name!r}; choose among {', '.join(names)}"
        for name in weights
        if name not in names
    ]


def _check_fit(config: RunConfig, train_set: ShardSet, val_set: ShardSet) -> None:
    if train_set.skeleton != val_set.skeleton:
        raise DataError(
            f"data.val: {config.data.val} has another skeleton than data.train:"
            f" {train_set.skeleton.difference(val_set.skeleton)}; import both with the same one"
        )
    if train_set.class_names != val_set.class_names:
        raise DataError(
            f"data.val: {config.data.val} has classes {', '.join(val_set.class_names)}, data.train has"
            f" {', '.join(train_set.class_names)}; import both with the same ones"
        )
    for key, shards in (("data.train", train_set), ("data.val", val_set)):
        if len(shards) == 0:
            raise DataError(f"{key}: {shards.url} holds no images; build it from a folder that has some")


def _check_resumable(config: RunConfig, train_set: ShardSet, store: ObjectStore) -> None:
    """A run without a checkpoint begins again; one that has some goes on only as what it was."""
    from raypose.engine.setup import identity_of  # takes seconds, which other faults should not cost

    if not store.exists("config.yaml"):
        raise CheckpointError(
            f"{store.url}: no run to resume (no config.yaml); start it without --resume, or name the folder of a run"
        )
    checkpoints = CheckpointStore(store)
    for newest in checkpoints.saved()[-1:]:
        checkpoints.identity(newest).require_same(identity_of(config, train_set), checkpoints.place(newest))


def _check_unused(config: RunConfig, store: ObjectStore) -> None:
    if store.exists("config.yaml") or any(store.list("checkpoints/")):
        raise ConfigError(name_in_use(config, store))


def name_in_use(config: RunConfig, store: ObjectStore) -> str:
    """What to say to somebody who would begin a run where there is one."""
    return (
        f"{store.url}: there is a run of this name already; choose another name than {config.name!r}, or"
        f" continue it with: raypose train --resume {shlex.quote(store.url)}"
    )
