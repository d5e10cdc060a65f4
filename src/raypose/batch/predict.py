"""Predict a whole source: one line of JSON an image, and pictures or a video with the skeletons drawn in."""

from __future__ import annotations

import json
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol, Self

import cv2

from raypose.batch.sources import Frame, ImageFiles, Unreadable, VideoFile, open_source
from raypose.errors import ConfigError, DataError, StorageError
from raypose.storage import ObjectStore, ancestry, open_store, require_writable
from raypose.structures import ImageArray, Poses, Skeleton
from raypose.vision.draw import KeypointText, draw_poses, encode_jpeg

PREDICTIONS_FILE = "predictions.jsonl"
PICTURES_FOLDER = "pictures"
_WRITERS = 4
_PENDING = 16
"""Pictures that wait to be written before prediction waits for them."""

VideoFormat = Literal["mp4", "webm"]
_CODECS: dict[VideoFormat, str] = {"mp4": "mp4v", "webm": "VP80"}


class _Spec(Protocol):
    @property
    def class_names(self) -> tuple[str, ...]: ...


class PosePredictor(Protocol):
    """What prediction needs of `raypose.inference.Predictor`."""

    @property
    def spec(self) -> _Spec: ...

    def predict(self, images: Sequence[ImageArray]) -> list[Poses]:
        """The people of each HW3 RGB image."""


@dataclass(frozen=True, slots=True)
class PredictSummary:
    """What came of a source. `failures` has one line for each image that could not be read."""

    images: int
    people: int
    failures: tuple[str, ...]
    wall_s: float
    out: str

    @property
    def images_per_second(self) -> float:
        return self.images / self.wall_s if self.wall_s > 0 else 0.0

    def __str__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return (
            f"{self.images} images, {self.people} people{failed}, {self.wall_s:.1f} s"
            f" ({self.images_per_second:.1f} images/s): {self.out}"
        )


def predict_source(
    predictor: PosePredictor,
    source: str,
    out: str | Path,
    *,
    skeleton: Skeleton,
    pictures: bool = True,
    keypoint_text: KeypointText = "none",
    video_format: VideoFormat = "mp4",
    batch: int = 8,
    on_progress: Callable[[int, int], None] | None = None,
) -> PredictSummary:
    """Write `predictions.jsonl` and, below `pictures/`, a .jpg for each image or an .mp4 or .webm for a video to `out`.

    `source` and `out` are paths or `s3://` URLs. An image that cannot be read is counted in the summary, the others go
    on. `on_progress` hears how many images are done, and how many there are (0 where a video does not say).
    `predictions.jsonl` appears when all is done.
    """
    if batch < 1:
        raise ConfigError(f"batch {batch} predicts nothing; use 1 or more")
    opened = open_source(source)
    store = open_store(str(out))
    pictures_store = store.child(PICTURES_FOLDER)
    if pictures:
        _refuse_to_overwrite(opened, pictures_store)
    require_writable(store, "out")
    failures: list[str] = []
    images = people = 0
    started_s = time.perf_counter()
    with ExitStack() as stack:
        pen = _Pen(skeleton, keypoint_text)
        drawing = stack.enter_context(_picture_writer(opened, pictures_store, pen, video_format)) if pictures else None
        partial = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raypose-predict-")), PREDICTIONS_FILE)
        lines = stack.enter_context(partial.open("w", encoding="utf-8"))
        for frames in _batches(opened, batch, failures):
            for frame, poses in zip(frames, predictor.predict([frame.image_HW3 for frame in frames]), strict=True):
                record = _record(frame, poses, skeleton, predictor.spec.class_names)
                if isinstance(opened, VideoFile):
                    record["frame"] = frame.index
                lines.write(json.dumps(record) + "\n")
                people += len(poses)
                if drawing:
                    drawing.add(frame, poses)
            images += len(frames)
            if on_progress:
                on_progress(images + len(failures), len(opened))
        if drawing:
            drawing.finish()
        lines.close()
        store.upload(partial, PREDICTIONS_FILE)
    return PredictSummary(images, people, tuple(failures), time.perf_counter() - started_s, str(out))


def _batches(source: ImageFiles | VideoFile, batch: int, failures: list[str]) -> Iterator[list[Frame]]:
    """Frames in lists of `batch`; what cannot be read goes to `failures`."""
    frames: list[Frame] = []
    for item in source:
        if isinstance(item, Unreadable):
            failures.append(str(item.error))
            continue
        frames.append(item)
        if len(frames) == batch:
            yield frames
            frames = []
    if frames:
        yield frames


def _record(frame: Frame, poses: Poses, skeleton: Skeleton, class_names: tuple[str, ...]) -> dict[str, Any]:
    height, width = frame.image_HW3.shape[:2]
    people = [
        {
            "box": [round(float(value), 2) for value in poses.box_xyxy_N4[index]],
            "score": round(float(poses.score_N[index]), 4),
            "class": class_names[int(poses.class_N[index])],
            "keypoints": [
                {"name": name, "x": round(float(x), 2), "y": round(float(y), 2), "confidence": round(float(conf), 4)}
                for name, (x, y, conf) in zip(skeleton.names, poses.keypoints_NK3[index], strict=True)
            ],
        }
        for index in range(len(poses))
    ]
    return {"file": frame.name, "width": width, "height": height, "people": people}


class _PictureWriter(Protocol):
    def add(self, frame: Frame, poses: Poses) -> None:
        """Draw one frame and keep it."""

    def finish(self) -> None:
        """Return once everything is kept."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None:
        """Let go of what is open, also after an error."""


def _refuse_to_overwrite(source: ImageFiles | VideoFile, pictures: ObjectStore) -> None:
    root = source.store.url if isinstance(source, ImageFiles) else str(source.path.parent)
    if any(above.url == pictures.url for above in ancestry(root)):
        raise DataError(
            f"{root}: pictures would be written to {pictures.url} and overwrite it; choose another output folder"
        )


@dataclass(frozen=True, slots=True)
class _Pen:
    """How a frame is drawn."""

    skeleton: Skeleton
    keypoint_text: KeypointText

    def draw(self, frame: Frame, poses: Poses) -> ImageArray:
        text = self.keypoint_text
        return draw_poses(frame.image_HW3, poses, self.skeleton, min_score=0.0, keypoint_text=text)


def _picture_writer(
    source: ImageFiles | VideoFile, store: ObjectStore, pen: _Pen, video_format: VideoFormat
) -> _PictureWriter:
    if isinstance(source, VideoFile):
        return _VideoPictures(store, source.path.stem, source.fps, pen, video_format)
    return _JpegPictures(store, pen)


class _JpegPictures:
    """One .jpg for each image, at the image's own path; drawn and written in threads, beside prediction."""

    def __init__(self, store: ObjectStore, pen: _Pen) -> None:
        self._store = store
        self._pen = pen
        self._taken: set[str] = set()
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="raypose-pictures")
        self._pending: deque[Future[None]] = deque()

    def add(self, frame: Frame, poses: Poses) -> None:
        key = str(PurePosixPath(frame.name).with_suffix(".jpg"))
        if key in self._taken:  # a.png beside a.jpg
            key = f"{frame.name}.jpg"
        self._taken.add(key)
        self._pending.append(self._pool.submit(self._draw, key, frame, poses))
        if len(self._pending) > _PENDING:
            self._pending.popleft().result()

    def finish(self) -> None:
        while self._pending:
            self._pending.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _draw(self, key: str, frame: Frame, poses: Poses) -> None:
        self._store.write(key, encode_jpeg(self._pen.draw(frame, poses)))


class _VideoPictures:
    """All frames as one video of the source's frame rate, without its sound."""

    def __init__(self, store: ObjectStore, stem: str, fps: float, pen: _Pen, video_format: VideoFormat) -> None:
        self._store = store
        self._key = f"{stem}.{video_format}"
        self._fps = fps
        self._pen = pen
        self._codec = cv2.VideoWriter.fourcc(*_CODECS[video_format])
        self._folder = tempfile.TemporaryDirectory(prefix="raypose-video-")
        self._path = Path(self._folder.name, self._key)
        self._writer: cv2.VideoWriter | None = None

    def add(self, frame: Frame, poses: Poses) -> None:
        drawn_HW3 = self._pen.draw(frame, poses)
        if self._writer is None:
            self._writer = self._open(drawn_HW3.shape[1], drawn_HW3.shape[0])
        self._writer.write(cv2.cvtColor(drawn_HW3, cv2.COLOR_RGB2BGR))

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._store.upload(self._path, self._key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
        self._folder.cleanup()

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        writer = cv2.VideoWriter(str(self._path), self._codec, self._fps, (width, height))
        if not writer.isOpened():
            raise StorageError(f"{self._path}: cannot write a {width}x{height} video here; try with pictures off")
        return writer
