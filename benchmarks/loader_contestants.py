"""One data loader at a time, run by loader.py: writes its format, or reads two epochs and prints how long they took.

    python benchmarks/loader_contestants.py write NAME --data FOLDER --samples N --out FOLDER
    python benchmarks/loader_contestants.py read NAME --url URL --cache FOLDER --samples N --workers 2

All read the same JPEGs and people and give batches of 64 RGB images of 192 x 192 pixels with a grey border, and the
people of each. raypose is what training uses, with its augmentation set to nothing. The others are set up as their
documentation recommends, decode and resize with OpenCV, and get their labels as ready-made arrays.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

SIDE_PX = 192
BATCH = 64
SHARD_BYTES = 64 << 20
GREY = 114
BOX_AND_KEYPOINTS = 4 + 17 * 3


@dataclass(frozen=True)
class Task:
    """What to read and how."""

    url: str
    cache: Path
    samples: int
    workers: int
    kind: str
    reduce: bool
    keep_pixels: bool


# raypose


def write_raypose(samples: Iterator[Any], out: Path) -> None:
    from raypose.data.manifest import Counts, Manifest, ShardInfo, write_manifest
    from raypose.data.shard import ShardWriter
    from raypose.storage import open_store
    from raypose.structures import COCO_PERSON

    infos: list[ShardInfo] = []
    counts = Counts()
    waiting = next(samples, None)
    while waiting is not None:
        with ShardWriter(out / f"shard-{len(infos):06d}.pkl") as writer:
            while waiting is not None and writer.size_bytes < SHARD_BYTES:
                writer.add(waiting)
                counts += Counts.of(waiting.people)
                waiting = next(samples, None)
        infos.append(writer.info())
    write_manifest(open_store(str(out)), Manifest(COCO_PERSON, ("person",), tuple(infos), counts))


def read_raypose(task: Task) -> Iterator[Iterator[np.ndarray]]:
    from raypose.config.schema import AugmentConfig
    from raypose.data.cache import NodeCache
    from raypose.data.loader import TrainLoader
    from raypose.data.pixel_cache import PixelCache
    from raypose.data.plan import Plan
    from raypose.data.shard_set import ShardSet

    nothing = AugmentConfig(mosaic=0, close_mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)
    shards = ShardSet.open(task.url, NodeCache(task.cache, 50 << 30))
    pixels = PixelCache(task.cache / "pixels", 50 << 30, shards, SIDE_PX) if task.keep_pixels else None
    plan = Plan(shards.shard_sizes, seed=0, batch=BATCH, lanes=1, window=8192)
    loader = TrainLoader(
        shards,
        plan,
        [0],
        nothing,
        imgsz=SIDE_PX,
        seed=0,
        epochs=2,
        start_step=0,
        end_step=plan.steps_of(2),
        loader_workers=task.workers,
        kind=task.kind,
        pixels=pixels,
    )
    batches = iter(loader)  # one for all epochs, as in training: like the others' persistent workers
    for epoch in (0, 1):
        steps = plan.steps_of(epoch + 1) - plan.steps_of(epoch)
        yield (batch.image_B3HW for (batch,) in itertools.islice(batches, steps))


# What the others share


def letterbox(jpeg: bytes, reduce: bool) -> np.ndarray:
    """The image in the middle of a grey square, as YOLO pipelines on OpenCV make it."""
    flags = cv2.IMREAD_COLOR_RGB
    if reduce:
        from raypose.vision.decode import header_size

        if max(header_size(jpeg) or (0,)) >= 2 * SIDE_PX:
            flags |= cv2.IMREAD_REDUCED_GRAYSCALE_2  # RGB at half size
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags)
    high, wide = image.shape[:2]
    scale = SIDE_PX / max(high, wide)
    width, height = round(wide * scale), round(high * scale)
    left, top = (SIDE_PX - width) // 2, (SIDE_PX - height) // 2
    square = np.full((SIDE_PX, SIDE_PX, 3), GREY, np.uint8)
    square[top : top + height, left : left + width] = cv2.resize(image, (width, height))
    return square


def decoded(sample: dict[str, bytes], reduce: bool) -> tuple[np.ndarray, np.ndarray]:
    people = np.frombuffer(sample["people"], np.float32).reshape(-1, BOX_AND_KEYPOINTS)
    return letterbox(sample["image"], reduce), people


def collate(items: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[Any, np.ndarray, np.ndarray]:
    """torch's own collation for images, which stacks them straight into shared memory; people as one array."""
    import torch
    from torch.utils.data import default_collate

    images, people = zip(*items, strict=True)
    index_N = np.repeat(np.arange(len(people)), [len(part) for part in people])
    return default_collate([torch.from_numpy(image) for image in images]), np.concatenate(people), index_N


def packed(sample: Any) -> dict[str, bytes]:
    """A sample as the others store it."""
    people = sample.people
    rows = np.concatenate([people.box_xyxy_N4, people.keypoints_NK3.reshape(len(people), 51)], axis=1)
    return {"image": sample.image, "people": rows.astype(np.float32).tobytes()}


def epochs_of(loader: Any) -> Iterator[Iterator[Any]]:
    for _ in (0, 1):
        yield (images for images, _, _ in loader)


# MosaicML Streaming


def write_streaming(samples: Iterator[Any], out: Path) -> None:
    from streaming import MDSWriter

    columns = {"image": "bytes", "people": "bytes"}
    with MDSWriter(out=str(out), columns=columns, size_limit=SHARD_BYTES) as writer:
        for sample in samples:
            writer.write(packed(sample))


def read_streaming(task: Task) -> Iterator[Iterator[Any]]:
    """shuffle=True, py1e and batch_size as the performance page asks; predownload keeps its default, 8 batches."""
    from streaming import StreamingDataLoader, StreamingDataset

    class Images(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> Any:
            return decoded(super().__getitem__(at), task.reduce)

    dataset = Images(remote=task.url, local=str(task.cache), shuffle=True, batch_size=BATCH)
    return epochs_of(
        StreamingDataLoader(
            dataset, batch_size=BATCH, num_workers=task.workers, collate_fn=collate, persistent_workers=True
        )
    )


# LitData


def write_litdata(samples: Iterator[Any], out: Path) -> None:
    from litdata.streaming import Cache

    cache = Cache(str(out), chunk_bytes=SHARD_BYTES)
    for number, sample in enumerate(samples):
        cache[number] = packed(sample)
    cache.done()
    cache.merge()


def read_litdata(task: Task) -> Iterator[Iterator[Any]]:
    """StreamingDataset on optimized data, the fast way of its documentation, with a cache that holds everything."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import downloader

    # Its fast client refuses a server without TLS and has no setting for it.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    dataset = StreamingDataset(
        task.url,
        cache_dir=str(task.cache),
        shuffle=True,
        max_cache_size="50GB",
        transform=functools.partial(decoded, reduce=task.reduce),
    )
    return epochs_of(
        StreamingDataLoader(
            dataset, batch_size=BATCH, num_workers=task.workers, collate_fn=collate, persistent_workers=True
        )
    )


# WebDataset


def write_webdataset(samples: Iterator[Any], out: Path) -> None:
    """Smaller shards than the others', because whole shards are dealt out to the workers: an even number each."""
    from webdataset import ShardWriter

    with ShardWriter(str(out / "shard-%06d.tar"), maxsize=SHARD_BYTES // 4, verbose=0) as writer:
        for number, sample in enumerate(samples):
            both = packed(sample)
            writer.write({"__key__": f"{number:08d}", "jpg": both["image"], "people": both["people"]})


def read_webdataset(task: Task) -> Iterator[Iterator[Any]]:
    """Batched inside the workers, shards by curl through its cache, a shuffle buffer of 1,000."""
    import webdataset

    task.cache.mkdir(parents=True, exist_ok=True)
    dataset = (
        webdataset.WebDataset(task.url.split(), shardshuffle=100, cache_dir=str(task.cache), seed=0)
        .shuffle(1000)
        .rename(image="jpg", people="people")
        .map(functools.partial(decoded, reduce=task.reduce))
        .batched(BATCH, collation_fn=collate, partial=True)
    )
    return epochs_of(webdataset.WebLoader(dataset, batch_size=None, num_workers=task.workers, persistent_workers=True))


CONTESTANTS = {
    "raypose": ("raypose.data.loader", write_raypose, read_raypose),
    "streaming": ("streaming", write_streaming, read_streaming),
    "litdata": ("litdata", write_litdata, read_litdata),
    "webdataset": ("webdataset", write_webdataset, read_webdataset),
}
"""What each imports before the clock starts, how it writes, and how it reads two epochs."""


def read_samples(data: Path, count: int) -> Iterator[Any]:
    """`count` samples: the images of lspet and coco-mini again and again, all shuffled, with COCO's 17 keypoints."""
    from raypose.structures import Sample

    images: list[Sample] = []
    for labels, folder in (
        ("lspet/annotations/train.json", "lspet/train"),
        ("lspet/annotations/val.json", "lspet/val"),
        ("coco-mini/annotations/person_keypoints_train2017.json", "coco-mini/train2017"),
        ("coco-mini/annotations/person_keypoints_val2017.json", "coco-mini/val2017"),
    ):
        images.extend(_read_coco(data / labels, data / folder))
    for number, pick in enumerate(np.random.default_rng(0).permutation(count).tolist()):
        yield replace(images[pick % len(images)], id=f"{number:08d}")


def _read_coco(annotations: Path, folder: Path) -> Iterator[Any]:
    from raypose.structures import COCO_PERSON, People, Sample

    raw = json.loads(annotations.read_text())
    names = raw["categories"][0]["keypoints"]
    places = [(COCO_PERSON.names.index(name), number) for number, name in enumerate(names) if name in COCO_PERSON.names]
    for image in raw["images"]:
        rows = [row for row in raw["annotations"] if row["image_id"] == image["id"] and not row["iscrowd"]]
        keypoints_NK3 = np.zeros((len(rows), 17, 3), np.float32)
        for person, row in enumerate(rows):
            found_K3 = np.reshape(row["keypoints"], (-1, 3))
            for place, number in places:
                keypoints_NK3[person, place] = found_K3[number]
        box_N4 = np.array([row["bbox"] for row in rows], np.float32).reshape(-1, 4)
        box_N4[:, 2:] += box_N4[:, :2]
        no_N, none_N = np.zeros(len(rows), np.bool_), np.full(len(rows), np.nan, np.float32)
        people = People(box_N4, keypoints_NK3, np.zeros(len(rows), np.int64), none_N, no_N, no_N)
        content = (folder / image["file_name"]).read_bytes()
        yield Sample(image["file_name"], content, image["width"], image["height"], people)


def measure(name: str, task: Task) -> dict[str, float]:
    """Images a second in the first epoch, from an empty cache, and in the second; there also what an image costs."""
    module, _, read = CONTESTANTS[name]
    importlib.import_module(module)
    rates, cpu_us = [], 0.0
    begin, cpu_begin_s = time.perf_counter(), cpu_seconds()
    for images_of_epoch in read(task):
        count = 0
        for images in images_of_epoch:
            count += len(images)
            # Laid out as each library likes, channels first or last.
            if sorted(images.shape[1:]) != [3, SIDE_PX, SIDE_PX] or str(images.dtype).split(".")[-1] != "uint8":
                raise ValueError(f"{name}: a batch of {images.dtype} {tuple(images.shape)}")
        if abs(count - task.samples) > BATCH:  # raypose's batches are all full, across the ends of epochs
            raise ValueError(f"{name}: {count} images in an epoch of {task.samples}")
        rates.append(count / (time.perf_counter() - begin))
        cpu_us = (cpu_seconds() - cpu_begin_s) / count * 1e6
        begin, cpu_begin_s = time.perf_counter(), cpu_seconds()
    return {"cold": round(rates[0], 1), "warm": round(rates[1], 1), "warm_cpu_us": round(cpu_us, 1)}


def cpu_seconds() -> float:
    """What this process and its children have used, those that have ended included."""
    own = psutil.Process()
    return sum(own.cpu_times()[:4]) + sum(sum(child.cpu_times()[:4]) for child in own.children(recursive=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["write", "read"])
    parser.add_argument("name", choices=list(CONTESTANTS))
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--url")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kind", default="auto", help="raypose's data.loader")
    parser.add_argument("--reduce", action="store_true", help="the others decode large images at half size, too")
    parser.add_argument("--keep-pixels", action="store_true", help="raypose keeps decoded images on the node's disk")
    given = parser.parse_args()
    if given.verb == "write":
        given.out.mkdir(parents=True)
        CONTESTANTS[given.name][1](read_samples(given.data, given.samples), given.out)
        return
    cv2.setNumThreads(0)  # every worker has one core, in every library
    task = Task(given.url, given.cache, given.samples, given.workers, given.kind, given.reduce, given.keep_pixels)
    print(json.dumps(measure(given.name, task)), flush=True)
    # Some libraries leave threads behind that would keep the process; what there was to measure is measured.
    os._exit(0)


if __name__ == "__main__":
    main()
