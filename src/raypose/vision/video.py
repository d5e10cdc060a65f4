"""Frames of a video file, one after another."""

from __future__ import annotations

import math
import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import cv2

from raypose.errors import DataError
from raypose.structures import ImageArray

# FFmpeg, inside OpenCV, would print what it finds in a broken video beside the error that says it. Read at first use.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

# OpenCV itself would, too.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)

_USUAL_FPS = 25.0
_COMPLETE = 0.9
"""Containers state their frame count only roughly; a video that yields less than this share of it was cut off."""


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A local video, as its container describes it. `stated_frames` is 0 where it does not say."""

    path: Path
    fps: float
    stated_frames: int
    width: int
    height: int

    @classmethod
    def open(cls, path: Path, where: str) -> VideoFile:
        """Raises DataError that names `where` for what is no video."""
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        try:
            if not capture.isOpened():
                raise DataError(f"{where}: cannot be opened as a video; encode it again, for example as H.264 in .mp4")
            fps = capture.get(cv2.CAP_PROP_FPS)
            frames, width, height = (
                max(0, int(capture.get(what)))
                for what in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
            )
        finally:
            capture.release()
        return cls(path, fps if math.isfinite(fps) and fps > 0 else _USUAL_FPS, frames, width, height)

    def frames(self) -> Generator[ImageArray]:
        """Each frame as HW3 RGB."""
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        try:
            while True:
                done, bgr_HW3 = capture.read()
                if not done:
                    return
                yield cv2.cvtColor(bgr_HW3, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()

    def require_whole(self, frames: int, where: str) -> None:
        """Raise DataError where decoding ended after so many frames, long before the end."""
        if frames < max(1, self.stated_frames * _COMPLETE):
            raise DataError(
                f"{where}: decoding ended after {frames} of {self.stated_frames} frames; the file is cut off or"
                " damaged, fetch or encode it again"
            )
