"""From what a pose head puts out to the people it found, in pixels of the canvas that the model saw.

Two layouts, A anchors, C classes, K keypoints:
  dense    B x (4 + C + 3K) x A   boxes as centre and size, overlapping; needs non-maximum suppression
  end2end  B x N x (6 + 3K)       corners, score and class, best first; already one row for each person
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raypose.model.nms import nms

_MAX_CANDIDATES = 30_000
_CLASS_OFFSET_PX = 7680.0
"""Moves boxes of different classes apart, so that one suppression serves all classes."""


@dataclass(frozen=True, slots=True)
class RawPoses:
    """People in one image, best score first, in canvas pixels."""

    box_xyxy_N4: Tensor
    score_N: Tensor
    class_N: Tensor
    keypoints_NK3: Tensor


@torch.no_grad()
def select_poses(
    output: Tensor, *, classes: int, keypoints: int, end2end: bool, conf: float, iou: float, max_det: int
) -> list[RawPoses]:
    """The people of each image that score above `conf`, at most `max_det`, as Ultralytics selects them.

    `classes` and `keypoints` are C and K. `iou` is how far boxes of one class may overlap; end2end ignores it.
    """
    width = 6 + 3 * keypoints if end2end else 4 + classes + 3 * keypoints
    found = output.shape[2 if end2end else 1]
    if found != width:
        raise ValueError(f"head output {tuple(output.shape)} has {found} channels, expected {width}")
    rows_of = _end2end_rows if end2end else _dense_rows
    return [_as_poses(rows, keypoints) for rows in rows_of(output.float(), classes, conf, iou, max_det)]


def _as_poses(row_NC: Tensor, keypoints: int) -> RawPoses:
    return RawPoses(row_NC[:, :4], row_NC[:, 4], row_NC[:, 5].long(), row_NC[:, 6:].reshape(-1, keypoints, 3))


def _end2end_rows(output_BNC: Tensor, classes: int, conf: float, iou: float, max_det: int) -> list[Tensor]:
    return [row_NC[row_NC[:, 4] > conf][:max_det] for row_NC in output_BNC]


def _dense_rows(output_BCA: Tensor, classes: int, conf: float, iou: float, max_det: int) -> list[Tensor]:
    score_BA, class_BA = output_BCA[:, 4 : 4 + classes].max(dim=1)
    return [
        _suppressed(_candidates(output_CA, score_A, class_A, classes, conf), iou)[:max_det]
        for output_CA, score_A, class_A in zip(output_BCA, score_BA, class_BA, strict=True)
    ]


def _candidates(output_CA: Tensor, score_A: Tensor, class_A: Tensor, classes: int, conf: float) -> Tensor:
    """Rows (x1, y1, x2, y2, score, class, keypoints) of the anchors above `conf`."""
    chosen = (score_A > conf).nonzero().squeeze(1)
    if len(chosen) > _MAX_CANDIDATES:
        chosen = chosen[score_A[chosen].argsort(descending=True)[:_MAX_CANDIDATES]]
    row_NC = output_CA[:, chosen].T
    centre_N2, half_N2 = row_NC[:, :2], row_NC[:, 2:4] / 2
    return torch.cat(
        (
            centre_N2 - half_N2,
            centre_N2 + half_N2,
            score_A[chosen, None],
            class_A[chosen, None].float(),
            row_NC[:, 4 + classes :],
        ),
        dim=1,
    )


def _suppressed(row_NC: Tensor, iou: float) -> Tensor:
    """Best first, without the boxes that overlap a better one of their class."""
    return row_NC[nms(row_NC[:, :4] + row_NC[:, 5:6] * _CLASS_OFFSET_PX, row_NC[:, 4], iou)]
