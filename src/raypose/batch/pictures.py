"""Pictures and videos with the skeletons drawn in, one for each input, at its own path."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import cv2

from raypose.batch.plan import VideoFormat
from raypose.errors import StorageError
from raypose.storage import ObjectStore
from raypose.structures import ImageArray, IntArray, Poses, Skeleton
from raypose.vision.draw import KeypointText, draw_poses, encode_jpeg

_WRITERS = 4
_PENDING = 16
"""Pictures that wait to be written before prediction waits for them."""
_CODECS: dict[VideoFormat, str] = {"mp4": "mp4v", "webm": "VP80"}


@dataclass(frozen=True, slots=True)
class Pen:
    """How an image is drawn on."""

    skeleton: Skeleton
    keypoint_text: KeypointText

    def draw(self, image_HW3: ImageArray, poses: Poses, id_N: IntArray | None) -> ImageArray:
        """A new image; with the people's numbers where they have some."""
        labels = None if id_N is None else [f"#{number}" if number else "" for number in id_N.tolist()]
        return draw_poses(
            image_HW3, poses, self.skeleton, min_score=0.0, keypoint_text=self.keypoint_text, labels=labels
        )


class Drawing(Protocol):
    """Pictures of one part."""

    def add(self, name: str, pixels: Callable[[], ImageArray], poses: Poses, id_N: IntArray | None) -> None:
        """Draw on one image or frame and keep it. `pixels` is called once, when its turn comes."""

    def finish(self) -> None:
        """Return once everything is kept."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None:
        """Let go of what is open, also after an error."""


def picture_key(name: str, suffix: str) -> str:
    """Where the picture of an input goes: different inputs never share one, and a.jpg stays a.jpg."""
    return name if name.endswith(suffix) else name + suffix


class NoDrawing:
    """Where no pictures are wanted."""

    def add(self, name: str, pixels: Callable[[], ImageArray], poses: Poses, id_N: IntArray | None) -> None: ...

    def finish(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


class JpegDrawing:
    """A .jpg for each image; drawn and written in threads, beside prediction."""

    def __init__(self, store: ObjectStore, pen: Pen) -> None:
        self._store = store
        self._pen = pen
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="raypose-pictures")
        self._pending: deque[Future[None]] = deque()

    def add(self, name: str, pixels: Callable[[], ImageArray], poses: Poses, id_N: IntArray | None) -> None:
        self._pending.append(self._pool.submit(self._draw, name, pixels, poses, id_N))
        if len(self._pending) > _PENDING:
            self._pending.popleft().result()

    def finish(self) -> None:
        while self._pending:
            self._pending.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _draw(self, name: str, pixels: Callable[[], ImageArray], poses: Poses, id_N: IntArray | None) -> None:
        self._store.write(picture_key(name, ".jpg"), encode_jpeg(self._pen.draw(pixels(), poses, id_N)))


class VideoDrawing:
    """All frames as one video of the source's frame rate, without its sound."""

    def __init__(self, store: ObjectStore, name: str, fps: float, pen: Pen, video_format: VideoFormat) -> None:
        self._store = store
        self._key = picture_key(name, f".{video_format}")
        self._fps = fps
        self._pen = pen
        self._codec = cv2.VideoWriter.fourcc(*_CODECS[video_format])
        self._folder = tempfile.TemporaryDirectory(prefix="raypose-video-")
        self._path = Path(self._folder.name, f"drawn.{video_format}")
        self._writer: cv2.VideoWriter | None = None

    def add(self, name: str, pixels: Callable[[], ImageArray], poses: Poses, id_N: IntArray | None) -> None:
        drawn_HW3 = self._pen.draw(pixels(), poses, id_N)
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
