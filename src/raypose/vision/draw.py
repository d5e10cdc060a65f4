"""Pictures of people and poses, for any skeleton and any size. Every function returns a new array; all are RGB uint8.

Colours are those of `part_colours`. Lines and text grow with the person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from raypose.errors import DataError
from raypose.structures import BoolArray, FloatArray, ImageArray, People, Poses, Skeleton
from raypose.vision.part_colours import Colour, part_colours

KeypointText = Literal["none", "numbers", "names"]

_BOX, _IGNORED, _INK, _PAPER = (250, 235, 90), (170, 170, 170), (15, 15, 18), (245, 245, 245)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_PX = 22.0  # height of a capital letter at scale 1
_SUBPIXEL_BITS = 4
_FAR_PX = 1e6  # beyond this a coordinate no longer fits OpenCV's fixed-point integers
_MIN_TEXT_PERSON_PX = 40
_GAP_PX = 4


def draw_people(
    image_HW3: ImageArray, people: People, skeleton: Skeleton, *, keypoint_text: KeypointText = "none"
) -> ImageArray:
    """Labelled people: visible keypoints filled, hidden ones hollow, ignored regions dashed and hatched."""
    _check(image_HW3, people.keypoints_NK3, skeleton)
    canvas_HW3 = np.ascontiguousarray(image_HW3).copy()
    for box_xyxy, keypoints_K3, ignored in zip(people.box_xyxy_N4, people.keypoints_NK3, people.ignore_N, strict=True):
        pen = _Pen.for_box(box_xyxy)
        if ignored:
            _hatched_box(canvas_HW3, box_xyxy, pen)
            continue
        _box(canvas_HW3, box_xyxy, pen)
        strength_K = (keypoints_K3[:, 2] > 0).astype(np.float32)
        xy_K2, hidden_K = keypoints_K3[:, :2], keypoints_K3[:, 2] == 1
        _skeleton(canvas_HW3, skeleton, pen, xy_K2=xy_K2, strength_K=strength_K, hollow_K=hidden_K)
        _keypoint_text(canvas_HW3, skeleton, pen, xy_K2=xy_K2, strength_K=strength_K, kind=keypoint_text)
    return canvas_HW3


def draw_poses(
    image_HW3: ImageArray,
    poses: Poses,
    skeleton: Skeleton,
    *,
    keypoint_conf: float = 0.5,
    min_score: float = 0.25,
    scores: bool = True,
    keypoint_text: KeypointText = "none",
    labels: Sequence[str] | None = None,
) -> ImageArray:
    """Predicted people who score at least `min_score`, with the keypoints of at least `keypoint_conf`.

    The surer a keypoint, the bigger its dot. Scores are left out beside people too small to carry them; `labels`, one a
    person, take their place.
    """
    _check(image_HW3, poses.keypoints_NK3, skeleton)
    canvas_HW3 = np.ascontiguousarray(image_HW3).copy()
    for index in reversed(range(len(poses))):  # the best are drawn last, on top
        if poses.score_N[index] < min_score:
            continue
        box_xyxy, keypoints_K3 = poses.box_xyxy_N4[index], poses.keypoints_NK3[index]
        pen = _Pen.for_box(box_xyxy)
        _box(canvas_HW3, box_xyxy, pen)
        strength_K = np.where(keypoints_K3[:, 2] >= keypoint_conf, np.clip(keypoints_K3[:, 2], 0.05, 1), 0)
        xy_K2, hollow_K = keypoints_K3[:, :2], np.zeros(len(strength_K), np.bool_)
        _skeleton(canvas_HW3, skeleton, pen, xy_K2=xy_K2, strength_K=strength_K, hollow_K=hollow_K)
        _keypoint_text(canvas_HW3, skeleton, pen, xy_K2=xy_K2, strength_K=strength_K, kind=keypoint_text)
        text = f"{poses.score_N[index]:.2f}" if labels is None else labels[index]
        if scores and text and pen.person_px >= _MIN_TEXT_PERSON_PX and np.isfinite(box_xyxy).all():
            _text(canvas_HW3, text, (box_xyxy[0], box_xyxy[1]), pen.text_px, _BOX)
    return canvas_HW3


def side_by_side(left_HW3: ImageArray, right_HW3: ImageArray, captions: tuple[str, str]) -> ImageArray:
    """Two pictures of equal height under their captions; the right one is scaled to the left one's height."""
    height = left_HW3.shape[0]
    width = max(1, round(right_HW3.shape[1] * height / right_HW3.shape[0]))
    right_HW3 = _resized(right_HW3, width, height)
    text_px = max(9.0, height / 28)
    strips = [
        np.vstack([_caption(caption, image.shape[1], text_px), image])
        for caption, image in zip(captions, (left_HW3, right_HW3), strict=True)
    ]
    gap = np.full((strips[0].shape[0], _GAP_PX, 3), _PAPER, np.uint8)
    return np.hstack([strips[0], gap, strips[1]])


def contact_sheet(tiles: Sequence[tuple[ImageArray, str]], *, columns: int, tile_px: int) -> ImageArray:
    """Pictures with captions in rows of `columns`, each fitted into a square of `tile_px`."""
    if not tiles or columns < 1 or tile_px < 1:
        raise DataError(
            f"contact sheet: {len(tiles)} tiles, {columns} columns, tile_px {tile_px}; each must be 1 or more"
        )
    columns = min(columns, len(tiles))
    text_px = float(np.clip(tile_px / 24, 9, 28))
    strip_px = _caption("", tile_px, text_px).shape[0]
    rows = -(-len(tiles) // columns)
    step_x, step_y = tile_px + _GAP_PX, tile_px + strip_px + _GAP_PX
    sheet_HW3 = np.full((rows * step_y - _GAP_PX, columns * step_x - _GAP_PX, 3), _PAPER, np.uint8)
    for number, (image_HW3, caption) in enumerate(tiles):
        height, width = image_HW3.shape[:2]
        scale = tile_px / max(height, width)
        fitted = _resized(image_HW3, max(1, round(width * scale)), max(1, round(height * scale)))
        x, y = number % columns * step_x, number // columns * step_y
        sheet_HW3[y : y + strip_px, x : x + tile_px] = _caption(caption, tile_px, text_px)
        left, top = x + (tile_px - fitted.shape[1]) // 2, y + strip_px + (tile_px - fitted.shape[0]) // 2
        sheet_HW3[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    return sheet_HW3


def encode_png(image_HW3: ImageArray) -> bytes:
    """PNG file of an RGB image."""
    return _encode(image_HW3, ".png", ())


def encode_jpeg(image_HW3: ImageArray, quality: int = 90) -> bytes:
    """JPEG file of an RGB image; `quality` is 0 to 100."""
    return _encode(image_HW3, ".jpg", (cv2.IMWRITE_JPEG_QUALITY, quality))


@dataclass(frozen=True, slots=True)
class _Pen:
    """Sizes in pixels that suit one person."""

    person_px: float
    line_px: int
    dot_px: float
    text_px: float

    @classmethod
    def for_box(cls, box_xyxy: FloatArray) -> _Pen:
        sides = np.nan_to_num(box_xyxy[2:] - box_xyxy[:2], posinf=0, neginf=0)
        person_px = float(np.clip(sides.max(), 1, 1e4))
        return cls(
            person_px,
            line_px=max(1, round(person_px / 110)),
            dot_px=max(1.5, person_px / 75),
            text_px=float(np.clip(person_px / 22, 8, 72)),
        )


def _check(image_HW3: ImageArray, keypoints_NK3: FloatArray, skeleton: Skeleton) -> None:
    if image_HW3.ndim != 3 or image_HW3.shape[2] != 3 or image_HW3.dtype != np.uint8:
        raise DataError(f"drawing: image is {image_HW3.dtype} {image_HW3.shape}, expected uint8 (H, W, 3) RGB")
    if keypoints_NK3.shape[1] != skeleton.keypoints:
        raise DataError(
            f"drawing: people have {keypoints_NK3.shape[1]} keypoints, the skeleton {skeleton.keypoints};"
            " draw them with the skeleton they were made with"
        )


def _skeleton(
    canvas_HW3: ImageArray,
    skeleton: Skeleton,
    pen: _Pen,
    *,
    xy_K2: FloatArray,
    strength_K: FloatArray,
    hollow_K: BoolArray,
) -> None:
    """Limbs and dots of the keypoints whose strength (0 to 1) is above 0."""
    colours = part_colours(skeleton)
    strength_K = np.where(np.isfinite(xy_K2).all(axis=1), strength_K, 0)
    point_K2 = _fixed(xy_K2)
    for (first, second), colour in zip(skeleton.edges, colours.edges, strict=True):
        strength = min(strength_K[first], strength_K[second])
        if strength > 0:
            line_px = max(1, round(pen.line_px * (0.5 + 0.5 * float(strength))))
            ends = point_K2[first].tolist(), point_K2[second].tolist()
            if pen.line_px > 1:  # a dark rim, because a limb may lie on anything
                rim_px = line_px + 2 * max(1, line_px // 4)
                cv2.line(canvas_HW3, *ends, _INK, rim_px, cv2.LINE_AA, _SUBPIXEL_BITS)
            cv2.line(canvas_HW3, *ends, colour, line_px, cv2.LINE_AA, _SUBPIXEL_BITS)
    rim_px = max(1, round(pen.dot_px / 4))
    for index in np.flatnonzero(strength_K > 0).tolist():
        centre = point_K2[index].tolist()
        radius = round(pen.dot_px * (0.6 + 0.4 * float(strength_K[index])) * (1 << _SUBPIXEL_BITS))
        if hollow_K[index]:  # a dark core, because the limbs would show through an open ring
            cv2.circle(canvas_HW3, centre, radius, _INK, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS)
            cv2.circle(canvas_HW3, centre, radius, colours.keypoints[index], rim_px, cv2.LINE_AA, _SUBPIXEL_BITS)
            continue
        cv2.circle(canvas_HW3, centre, radius, colours.keypoints[index], cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS)
        if pen.dot_px >= 3:
            cv2.circle(canvas_HW3, centre, radius, _INK, max(1, rim_px // 2), cv2.LINE_AA, _SUBPIXEL_BITS)


def _keypoint_text(
    canvas_HW3: ImageArray,
    skeleton: Skeleton,
    pen: _Pen,
    *,
    xy_K2: FloatArray,
    strength_K: FloatArray,
    kind: KeypointText,
) -> None:
    if kind == "none":
        return
    for index in np.flatnonzero((strength_K > 0) & np.isfinite(xy_K2).all(axis=1)).tolist():
        text = skeleton.names[index] if kind == "names" else str(index)
        place = xy_K2[index, 0] + pen.dot_px, xy_K2[index, 1] - pen.dot_px
        _text(canvas_HW3, text, place, pen.text_px * 0.7, _PAPER)


def _box(canvas_HW3: ImageArray, box_xyxy: FloatArray, pen: _Pen) -> None:
    if np.isfinite(box_xyxy).all():
        (left, top), (right, bottom) = _fixed(box_xyxy.reshape(2, 2)).tolist()
        line_px = max(1, pen.line_px // 2)
        cv2.rectangle(canvas_HW3, (left, top), (right, bottom), _BOX, line_px, cv2.LINE_AA, _SUBPIXEL_BITS)


def _hatched_box(canvas_HW3: ImageArray, box_xyxy: FloatArray, pen: _Pen) -> None:
    """Dashed edges and slanting lines, clipped to the image so that a giant region costs no more than the image."""
    height, width = canvas_HW3.shape[:2]
    left, top, right, bottom = np.clip(np.nan_to_num(box_xyxy), 0, (width, height, width, height)).astype(int).tolist()
    region = canvas_HW3[top:bottom, left:right]
    high, wide = region.shape[:2]
    if not high or not wide:
        return
    step_px, line_px = max(6, round(pen.person_px / 12)), max(1, pen.line_px // 2)
    for x in range(-high, wide, step_px):
        cv2.line(region, (x, high), (x + high, 0), _IGNORED, line_px, cv2.LINE_AA)
    for start in range(0, wide, step_px):
        stop = start + step_px // 2
        cv2.line(region, (start, 0), (stop, 0), _PAPER, line_px + 1)
        cv2.line(region, (start, high - 1), (stop, high - 1), _PAPER, line_px + 1)
    for start in range(0, high, step_px):
        stop = start + step_px // 2
        cv2.line(region, (0, start), (0, stop), _PAPER, line_px + 1)
        cv2.line(region, (wide - 1, start), (wide - 1, stop), _PAPER, line_px + 1)


def _text(canvas_HW3: ImageArray, text: str, corner_xy: tuple[float, float], text_px: float, colour: Colour) -> None:
    """Text on a dark plate whose lower left corner is at `corner_xy`, moved where needed to begin inside the image."""
    scale, line_px = text_px / _FONT_PX, max(1, round(text_px / 12))
    (wide, high), below = cv2.getTextSize(text, _FONT, scale, line_px)
    height, width = canvas_HW3.shape[:2]
    left = int(np.clip(corner_xy[0], 0, max(0, width - wide - 2)))
    bottom = int(np.clip(corner_xy[1], min(high + below, height), height))
    cv2.rectangle(canvas_HW3, (left, bottom - high - below), (left + wide + 2, bottom - 1), _INK, cv2.FILLED)
    cv2.putText(canvas_HW3, text, (left + 1, bottom - below), _FONT, scale, colour, line_px, cv2.LINE_AA)


def _caption(text: str, width: int, text_px: float) -> ImageArray:
    """A strip with one line of text, shortened to fit."""
    scale, line_px = text_px / _FONT_PX, max(1, round(text_px / 12))
    strip_HW3 = np.full((round(text_px * 2), width, 3), _INK, np.uint8)
    margin_px = round(text_px / 2)
    shown = text
    while shown and cv2.getTextSize(shown, _FONT, scale, line_px)[0][0] > width - 2 * margin_px:
        shown = shown.removesuffix("...")[:-1] + "..." if len(shown) > 4 else ""
    cv2.putText(strip_HW3, shown, (margin_px, round(text_px * 1.45)), _FONT, scale, _PAPER, line_px, cv2.LINE_AA)
    return strip_HW3


def _resized(image_HW3: ImageArray, width: int, height: int) -> ImageArray:
    shrinks = width * height < image_HW3.shape[0] * image_HW3.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image_HW3, (width, height), interpolation=how), np.uint8)


def _fixed(xy_P2: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """OpenCV's fixed-point coordinates, whose integers are pixel centres."""
    bounded_P2 = np.clip(np.nan_to_num(xy_P2), -_FAR_PX, _FAR_PX) - 0.5
    return np.asarray(np.rint(bounded_P2 * (1 << _SUBPIXEL_BITS)), np.int32)


def _encode(image_HW3: ImageArray, extension: str, options: tuple[int, ...]) -> bytes:
    done, encoded = cv2.imencode(extension, cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise DataError(f"encoding a {image_HW3.shape} image as {extension} failed; an image needs at least one pixel")
    return bytes(encoded.tobytes())
