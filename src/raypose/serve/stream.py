"""People in a video, frame by frame: the client reads what is done while the rest is under way."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from raypose.errors import DataError
from raypose.inference import Selection, describe_people
from raypose.model import Tracker
from raypose.serve.answers import skeleton_id
from raypose.serve.loading import Model
from raypose.serve.models import Role
from raypose.serve.problem import Problem
from raypose.serve.service import Predicted, Prediction, Service
from raypose.serve.uploads import Upload
from raypose.structures import ImageArray, IntArray
from raypose.vision.video import VideoFile


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request wants of every frame. `conf` is the least score of somebody new, where people are tracked.

    `answering` stays for the whole video, also where another model takes its place: a track is of one model.
    """

    selection: Selection
    keypoint_conf: float
    answering: tuple[Role, Model]
    track: bool
    conf: float


class UploadedVideo:
    """A video that was sent, as a file that goes with it. Frames are read by one thread at a time, `close` by any."""

    def __init__(self, upload: Upload, most_pixels: int) -> None:
        """Raises Problem for what is no video of a size that is allowed."""
        _check_kind(upload)
        self._name = upload.name
        self._folder = tempfile.TemporaryDirectory(prefix="raypose-stream-")
        try:
            self.file = self._opened(upload, most_pixels)
        except BaseException:
            self._folder.cleanup()
            raise
        self._frames = self.file.frames()
        self._reading = threading.Lock()
        self._closed = False

    def _opened(self, upload: Upload, most_pixels: int) -> VideoFile:
        path = Path(self._folder.name, "video")
        path.write_bytes(upload.content)
        try:
            file = VideoFile.open(path, upload.name)
        except DataError as error:
            raise Problem("bad_video", f"{upload.name}: the video cannot be opened") from error
        if file.width * file.height > most_pixels:
            raise Problem(
                "image_too_large",
                f"{upload.name}: {file.width}x{file.height} are more than {most_pixels:,} pixels a frame",
            )
        return file

    def read(self) -> ImageArray | None:
        """The next frame, None after the last one."""
        with self._reading:
            image_HW3 = None if self._closed else next(self._frames, None)
        if self._closed:  # meanwhile, by somebody who did not wait
            self.close()
        return image_HW3

    def require_whole(self, frames: int) -> None:
        """Problem where it broke off after so many frames."""
        try:
            self.file.require_whole(frames, self._name)
        except DataError as error:
            raise Problem("bad_video", str(error)) from error

    def close(self) -> None:
        """Without waiting: a frame that is being read is read to its end, and then its reader lets go."""
        self._closed = True
        if self._reading.acquire(blocking=False):
            self._frames.close()
            self._folder.cleanup()
            self._reading.release()


class VideoAnswer(StreamingResponse):
    """Lines of JSON: what the video is, each frame as it is done, and the end or why it broke off.

    A few frames are under way at a time, and count as images that the service has accepted. A client that goes away, or
    that reads nothing for as long as a request may take, ends the work.
    """

    def __init__(self, service: Service, video: UploadedVideo, asked: Asked) -> None:
        """Raises Problem where there is no room; then the caller closes the video."""
        self._service = service
        self._video = video
        self._asked = asked
        self._tracker = Tracker(asked.conf, video.file.fps) if asked.track else None
        self._under_way: deque[asyncio.Task[Predicted]] = deque()
        self._ahead = max(1, min(service.config.compute.batch, service.config.limits.queue_images))
        self._open = ExitStack()
        self._open.enter_context(service.admitted(self._ahead))
        super().__init__(self._lines(), media_type="application/x-ndjson")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def patiently(message: Message) -> None:
            try:
                async with asyncio.timeout(self._service.config.limits.request_s):
                    await send(message)
            except TimeoutError as error:
                raise ClientDisconnect from error

        try:
            await super().__call__(scope, receive, patiently)
        finally:
            for task in self._under_way:
                task.cancel()
            asyncio.gather(*self._under_way, return_exceptions=True)  # nobody else asks what became of them
            self._video.close()
            self._open.close()

    async def _lines(self) -> AsyncIterator[bytes]:
        file = self._video.file
        yield _line({"video": {"width": file.width, "height": file.height, "fps": round(file.fps, 3)}})
        count = 0
        try:
            async for predicted in self._predicted():
                yield _line(self._frame(count, predicted))
                count += 1
            self._video.require_whole(count)
            yield _line({"end": {"frames": count}})
        except Problem as problem:
            yield _line({"error": problem.to_dict()})

    async def _predicted(self) -> AsyncIterator[Predicted]:
        more = True
        while more or self._under_way:
            while more and len(self._under_way) < self._ahead:
                image_HW3 = await self._service.in_pool(self._video.read)
                more = image_HW3 is not None
                if image_HW3 is not None:
                    work = self._service.predict([image_HW3], self._asked.selection, self._asked.answering)
                    self._under_way.append(asyncio.create_task(work))
            if self._under_way:
                predicted = await self._under_way[0]
                self._under_way.popleft()
                yield predicted

    def _frame(self, number: int, predicted: Predicted) -> dict[str, Any]:
        (image,) = predicted.images
        where = {"frame": number, "time_s": round(number / self._video.file.fps, 3)}
        if isinstance(image, Problem):
            return where | {"error": image.to_dict()}
        spec = predicted.model.spec
        return where | {
            "version": predicted.model.version,
            "skeleton": skeleton_id(spec.skeleton),
            "people": self._people(image, predicted),
        }

    def _people(self, image: Prediction, predicted: Predicted) -> list[dict[str, Any]]:
        spec, poses = predicted.model.spec, image.poses
        id_N: IntArray | None = None
        if self._tracker is not None:
            poses, id_N = self._tracker.update(poses)
        people = describe_people(poses, spec.skeleton, spec.class_names, self._asked.keypoint_conf)
        if id_N is None:
            return people
        return [{"id": number or None} | person for number, person in zip(id_N.tolist(), people, strict=True)]


def _check_kind(upload: Upload) -> None:
    """By the first bytes. FFmpeg also reads lists of other files and addresses, which nobody shall make it open."""
    content = upload.content
    mp4, matroska = content[4:8] == b"ftyp", content[:4] == b"\x1aE\xdf\xa3"
    if not mp4 and not matroska and not (content[:4] == b"RIFF" and content[8:12] == b"AVI "):
        raise Problem("unsupported_video", f"{upload.name}: neither MP4, MOV, WebM, Matroska nor AVI, by its start")


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode() + b"\n"
