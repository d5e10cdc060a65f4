"""A shard set in Ultralytics' layout: `data.yaml`, `images/` and a text file of normalised rows for each image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from itertools import starmap
from operator import add
from typing import Any

import numpy as np
import yaml

from raypose.data.exporters.files import image_name, open_empty, write_each
from raypose.data.importers.yolo_txt import label_key
from raypose.data.shard_set import ShardSet
from raypose.errors import DataError
from raypose.structures import COCO_PERSON, People, Sample, Skeleton

DATA_YAML_KEY = "data.yaml"


@dataclass(frozen=True, slots=True)
class YoloLosses:
    """What the layout could not hold."""

    crowds: int = 0
    other_ignored: int = 0
    people_outside: int = 0
    boxes_cut: int = 0
    keypoints_outside: int = 0
    areas: int = 0
    edges: int = 0

    def __add__(self, other: YoloLosses) -> YoloLosses:
        return YoloLosses(*starmap(add, zip(astuple(self), astuple(other), strict=True)))

    def in_words(self) -> list[str]:
        """One line for each kind of loss that occurred."""
        texts = (
            f"{self.crowds:,} crowds left out: YOLO labels have none",
            f"{self.other_ignored:,} other ignored regions left out: YOLO would learn them as people",
            f"{self.people_outside:,} people outside of their image left out",
            f"{self.boxes_cut:,} boxes cut at the border of their image: YOLO takes no coordinates beyond it",
            f"{self.keypoints_outside:,} keypoints outside of their image are no longer labelled",
            f"{self.areas:,} areas of segments not written: evaluation falls back on the box",
            f"{self.edges:,} edges of the skeleton not written: they are only drawn",
        )
        return [text for text, count in zip(texts, astuple(self), strict=True) if count]


def export_yolo(
    train: ShardSet, out: str, *, val: ShardSet | None = None, progress: Callable[[int], None] | None = None
) -> YoloLosses:
    """Write the sets as splits into the empty place `out`, `data.yaml` last; returns what YOLO cannot hold.

    Ultralytics wants both splits: without `val`, `data.yaml` names the images of `train` twice.
    """
    _refuse_unlike(train, val)
    store = open_empty(out)
    losses = YoloLosses(edges=0 if train.skeleton.names == COCO_PERSON.names else len(train.skeleton.edges))
    done = 0
    for split, shard_set in (("train", train), ("val", val)):
        for lost in write_each(shard_set, store, _converter(split)) if shard_set else ():
            losses += lost
            done += 1
            if progress:
                progress(done)
    settings = _settings(train.skeleton, train.class_names, "train", "val" if val else "train")
    store.write(DATA_YAML_KEY, yaml.safe_dump(settings, sort_keys=False, default_flow_style=None).encode())
    return losses


def yolo_rows(sample: Sample) -> tuple[str, YoloLosses]:
    """The text file of one image, empty where nobody is left, and what is not in it.

    Ten digits keep a coordinate to a millionth of a pixel.
    """
    people, size_2 = sample.people, np.array([sample.width, sample.height], np.float64)
    ignored_N, crowd_N = people.ignore_N, people.crowd_N
    learnt = people.select(~ignored_N)
    box_N22 = learnt.box_xyxy_N4.astype(np.float64).reshape(-1, 2, 2)
    cut_N22 = box_N22.clip(0, size_2)
    keypoints_NK3, outside_NK = _inside(learnt, size_2)
    kept_N = (cut_N22[:, 1] > cut_N22[:, 0]).all(axis=1) & (keypoints_NK3[..., 2] > 0).any(axis=1)
    losses = YoloLosses(
        crowds=int(crowd_N.sum()),
        other_ignored=int((ignored_N & ~crowd_N).sum()),
        people_outside=int((~kept_N).sum()),
        boxes_cut=int((cut_N22 != box_N22)[kept_N].any(axis=(1, 2)).sum()),
        keypoints_outside=int(outside_NK[kept_N].sum()),
        areas=int(np.isfinite(learnt.area_N[kept_N]).sum()),
    )
    centre_N2, extent_N2 = cut_N22.mean(axis=1) / size_2, (cut_N22[:, 1] - cut_N22[:, 0]) / size_2
    rows = zip(learnt.class_N, centre_N2, extent_N2, keypoints_NK3, kept_N, strict=True)
    return "".join(_row(*row) for *row, is_kept in rows if is_kept), losses


def _inside(people: People, size_2: Any) -> tuple[Any, Any]:
    """Normalised keypoints, no longer labelled where they lie outside, and which ones that are."""
    keypoints_NK3 = people.keypoints_NK3.astype(np.float64)
    keypoints_NK3[..., :2] /= size_2
    is_off_NK = ((keypoints_NK3[..., :2] < 0) | (keypoints_NK3[..., :2] > 1)).any(axis=-1)
    outside_NK = is_off_NK & (keypoints_NK3[..., 2] > 0)
    keypoints_NK3[outside_NK | (keypoints_NK3[..., 2] == 0)] = 0
    return keypoints_NK3, outside_NK


def _row(class_index: int, centre_2: Any, extent_2: Any, keypoints_K3: Any) -> str:
    points = [f"{x:.10g} {y:.10g} {visibility:.0f}" for x, y, visibility in keypoints_K3]
    return " ".join([str(class_index), *(f"{number:.10g}" for number in (*centre_2, *extent_2)), *points]) + "\n"


def _converter(split: str) -> Callable[[Sample], tuple[dict[str, bytes], YoloLosses]]:
    def convert(sample: Sample) -> tuple[dict[str, bytes], YoloLosses]:
        image = f"images/{split}/{image_name(sample)}"
        rows, losses = yolo_rows(sample)
        return {image: sample.image, label_key(image): rows.encode()}, losses

    return convert


def _settings(skeleton: Skeleton, class_names: tuple[str, ...], train: str, val: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "train": f"images/{train}",
        "val": f"images/{val}",
        "names": dict(enumerate(class_names)),
        "kpt_shape": [skeleton.keypoints, 3],
        "flip_idx": list(skeleton.flip_index),
        "kpt_names": {index: list(skeleton.names) for index in range(len(class_names))},
    }
    if skeleton.sigmas is not None:
        settings["kpt_oks_sigmas"] = list(skeleton.sigmas)
    return settings


def _refuse_unlike(train: ShardSet, val: ShardSet | None) -> None:
    if val is None:
        return
    difference = train.skeleton.difference(val.skeleton)
    if not difference and train.class_names != val.class_names:
        difference = f"classes {', '.join(val.class_names)} instead of {', '.join(train.class_names)}"
    if difference:
        raise DataError(
            f"{val.url}: {difference} than {train.url}; one data.yaml has one skeleton and one list of classes"
        )
