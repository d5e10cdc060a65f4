"""Who is who from frame to frame of a video: ByteTrack (Zhang et al., ECCV 2022), by boxes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypose.errors import ConfigError
from raypose.model.vendor import byte_tracker
from raypose.structures import BoolArray, FloatArray, IntArray, Poses

_LEAST_CONF = 0.1
"""People who score less are noise. Those between this and `conf` count where somebody is expected to be."""
_PATIENCE_S = 1.0
"""How long somebody may be out of sight and keep the number."""
_MATCH_THRESHOLD = 0.8  # Ultralytics' default, as is the weighing of overlap by score


def tracked_conf(conf: float) -> float:
    """The least score that counts where newcomers have to score `conf`. Raises ConfigError where `conf` is less."""
    if conf < _LEAST_CONF:
        raise ConfigError(f"conf {conf:g}: tracking needs at least {_LEAST_CONF:g}")
    return _LEAST_CONF


class Tracker:
    """Numbers the people of one video, frame after frame, from 1.

    A person gets a number in the second frame in a row, in the first frame of the video at once, and keeps it
    through up to a second out of sight. Wants to see everybody who scores `tracked_conf` or more; somebody new has to
    score `conf`.
    """

    def __init__(self, conf: float, fps: float) -> None:
        least = tracked_conf(conf)
        self._conf = conf
        self._tracker = byte_tracker(
            track_high_thresh=conf,
            track_low_thresh=least,
            new_track_thresh=conf,
            track_buffer=max(1, round(fps * _PATIENCE_S)),
            match_thresh=_MATCH_THRESHOLD,
            fuse_score=True,
        )

    def update(self, poses: Poses) -> tuple[Poses, IntArray]:
        """The people of the next frame who count, and the number of each, 0 for somebody who has none yet.

        Those below `conf` count where they carry on somebody's track.
        """
        id_N = np.zeros(len(poses), np.int64)
        # Rows of x1, y1, x2, y2, number, score, class, index; an array without columns where there is nobody.
        rows = np.asarray(self._tracker.update(_Boxes.of(poses)), np.float64).reshape(-1, 8)
        id_N[rows[:, 7].astype(np.int64)] = rows[:, 4].astype(np.int64)
        keep_N = (id_N > 0) | (poses.score_N >= self._conf)
        return _subset(poses, keep_N), id_N[keep_N]


@dataclass(frozen=True, slots=True)
class _Boxes:
    """What ByteTrack reads of Ultralytics' own `Boxes`."""

    xywh: NDArray[Any]
    conf: FloatArray
    cls: IntArray

    @classmethod
    def of(cls, poses: Poses) -> _Boxes:
        low_N2, high_N2 = poses.box_xyxy_N4[:, :2], poses.box_xyxy_N4[:, 2:]
        return cls(np.hstack([(low_N2 + high_N2) / 2, high_N2 - low_N2]), poses.score_N, poses.class_N)

    def __len__(self) -> int:
        return len(self.conf)

    def __getitem__(self, mask_N: BoolArray) -> _Boxes:
        return _Boxes(self.xywh[mask_N], self.conf[mask_N], self.cls[mask_N])


def poses_above(poses: Poses, conf: float) -> Poses:
    """Those who score at least `conf`."""
    return _subset(poses, poses.score_N >= conf)


def _subset(poses: Poses, keep_N: BoolArray) -> Poses:
    return Poses(poses.box_xyxy_N4[keep_N], poses.score_N[keep_N], poses.class_N[keep_N], poses.keypoints_NK3[keep_N])
