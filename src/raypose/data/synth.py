"""Synthetic data set: articulated people on varied backgrounds, with exact labels and no download.

Labels are as honest as hand-made ones: a keypoint is visible where the front-most painted pixel belongs to its own
body part, hidden (1) where something else covers it, and unlabelled (0) outside the image. Eyes, ears and nose on
the far side of the own head are unlabelled, too, as annotators of COCO leave them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator, default_rng

from raypose.data.figure import Figure, Part, random_figure
from raypose.errors import DataError
from raypose.structures import COCO_PERSON, BoolArray, FloatArray, ImageArray, People, Sample

_MIN_SIZE_PX = 64
_FACE_KEYPOINTS = 5  # nose, eyes and ears come first
_MOST_OVERLAP = 0.35  # of the smaller of two boxes
_OBJECT = 255  # owner of a pixel of the foreground
_PEOPLE_CHANCES = (0.03, 0.55, 0.27, 0.10, 0.05)
_HEIGHT_SHARE = {1: (0.62, 0.93), 2: (0.54, 0.90), 3: (0.45, 0.80), 4: (0.40, 0.70)}
"""Height of a standing person as a share of the image, by the number of people."""
_ASPECTS = ((4, 3), (1, 1), (3, 4), (3, 2))
_SCENES = (  # RGB above and below the horizon
    ((150, 190, 225), (110, 145, 80)),  # sky, meadow
    ((170, 200, 220), (205, 185, 140)),  # sky, sand
    ((185, 190, 195), (105, 105, 110)),  # overcast, asphalt
    ((215, 205, 185), (150, 110, 75)),  # wall, wood
    ((175, 195, 180), (130, 130, 125)),  # wall, concrete
    ((120, 130, 145), (75, 80, 90)),  # hall
    ((60, 70, 100), (50, 60, 55)),  # dusk
    ((200, 170, 165), (165, 150, 145)),  # brick, paving
    ((95, 130, 90), (140, 150, 95)),  # wood, lawn
)


def synthesize(count: int, seed: int, size_px: int, *, start: int = 0) -> Iterator[Sample]:
    """`count` images from number `start` on, whose long side is `size_px`, with 0 to 4 COCO people each.

    Image i depends on `seed`, i and `size_px` only, so a longer data set begins with the shorter one.
    """
    if count < 0 or seed < 0 or size_px < _MIN_SIZE_PX:
        raise DataError(
            f"synthetic data: count {count}, seed {seed}, size_px {size_px};"
            f" count and seed start at 0 and images at {_MIN_SIZE_PX} px"
        )
    for index in range(start, start + count):
        yield _sample(default_rng([seed, index]), f"synth-{index:06d}", size_px)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a figure stands: pixels for one body height, and the pixel of its origin."""

    figure: Figure
    scale_px: float
    origin_xy: tuple[float, float]

    @property
    def box_xyxy(self) -> FloatArray:
        box_xyxy = np.array(self.figure.bounds_xyxy) * self.scale_px + np.tile(self.origin_xy, 2)
        return np.asarray(box_xyxy, np.float32)


def _sample(rng: Generator, sample_id: str, size_px: int) -> Sample:
    across, down = _ASPECTS[rng.integers(len(_ASPECTS))]
    width, height = size_px * across // max(across, down), size_px * down // max(across, down)
    canvas_HW3 = _background(rng, width, height)
    people = _paint_people(rng, canvas_HW3, _place_figures(rng, width, height))
    image_HW3 = _camera(rng, canvas_HW3)
    quality = int(rng.integers(82, 96))
    encoded = cv2.imencode(".jpg", cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
    return Sample(sample_id, encoded.tobytes(), width, height, people)


def _place_figures(rng: Generator, width: int, height: int) -> list[_Place]:
    """People side by side who overlap at most moderately, the farthest first."""
    wanted = int(rng.choice(len(_PEOPLE_CHANCES), p=_PEOPLE_CHANCES))
    spread = rng.uniform(0.3, 1.0) if wanted > 1 else 1.0  # the part of the width that a group takes
    middle = rng.uniform(spread / 2, 1 - spread / 2)
    places: list[_Place] = []
    for slot in rng.permutation(wanted):
        figure = random_figure(rng)
        for _ in range(6):
            across = (slot + rng.uniform(-0.2, 1.2)) / wanted
            place = _place_one(rng, figure, (width, height), middle + (across - 0.5) * spread, wanted)
            if all(_overlap(place.box_xyxy, other.box_xyxy) < _MOST_OVERLAP for other in places):
                places.append(place)
                break
    return sorted(places, key=lambda place: float(place.box_xyxy[3]))


def _place_one(rng: Generator, figure: Figure, size_wh: tuple[int, int], across: float, people: int) -> _Place:
    """One person about `across` (0 to 1) of the way through an image of so many people."""
    width, height = size_wh
    left, top, right, bottom = figure.bounds_xyxy
    standing_px = height * rng.uniform(*_HEIGHT_SHARE[people])
    scale_px = min(standing_px, 1.3 * width / (right - left) / people**0.5)
    tall_px = (bottom - top) * scale_px
    # The nearer (larger) a person, the lower the feet: the ground is seen from above.
    ground_px = height - rng.uniform(0.02, 0.35) * max(height - tall_px, 0.0)
    if rng.random() < 0.1:
        scale_px *= rng.uniform(1.1, 1.5)
        ground_px = height + rng.uniform(0.05, 0.4) * tall_px
    half_px = (right - left) * scale_px / 2
    centre_px = float(np.clip(across, 0.08, 0.92)) * width
    if rng.random() > 0.12:  # most people are wholly inside from left to right
        centre_px = float(np.clip(centre_px, min(half_px, width / 2), max(width - half_px, width / 2)))
    origin_x, origin_y = centre_px - (left + right) / 2 * scale_px, ground_px - bottom * scale_px
    return _Place(figure, scale_px, (origin_x, origin_y))


def _overlap(first_xyxy: FloatArray, second_xyxy: FloatArray) -> float:
    """Shared area as a part of the smaller box."""
    low, high = np.maximum(first_xyxy[:2], second_xyxy[:2]), np.minimum(first_xyxy[2:], second_xyxy[2:])
    areas = [float(np.prod(box[2:] - box[:2])) for box in (first_xyxy, second_xyxy)]
    return float(np.prod(np.maximum(high - low, 0))) / min(areas)


def _paint_people(rng: Generator, canvas_HW3: ImageArray, places: list[_Place]) -> People:
    """Paint from far to near, then read the labels off what was painted."""
    owner_HW = np.zeros(canvas_HW3.shape[:2], np.uint8)
    object_after = int(rng.integers(len(places))) if places and rng.random() < 0.14 else -1
    part_NHW = []
    for number, place in enumerate(places):
        _shadow(canvas_HW3, place)
        if place.figure.body.stance == "sit":
            _seat(rng, canvas_HW3, owner_HW, place)
        part_HW = place.figure.paint(canvas_HW3, place.scale_px, place.origin_xy)
        owner_HW[part_HW > 0] = number + 1
        part_NHW.append(part_HW)
        if number == object_after:
            _paint_object(rng, canvas_HW3, owner_HW, place.box_xyxy)
    labelled = [
        _label(place, part_HW, owner_HW == number + 1)
        for number, (place, part_HW) in enumerate(zip(places, part_NHW, strict=True))
        if part_HW.any()
    ]
    if not labelled:
        return People.empty(COCO_PERSON.keypoints)
    boxes, keypoints, areas = zip(*labelled, strict=True)
    keypoints_NK3 = np.stack(keypoints)
    count = len(labelled)
    return People(
        np.array(boxes, np.float32),
        keypoints_NK3,
        np.zeros(count, np.int64),
        np.array(areas, np.float32),
        # Nobody can find a person who shows no keypoint at all.
        ~(keypoints_NK3[:, :, 2] == 2).any(axis=1),
        np.zeros(count, np.bool_),
    )


def _label(
    place: _Place, part_HW: ImageArray, shows_HW: BoolArray
) -> tuple[tuple[int, int, int, int], FloatArray, int]:
    """Box, keypoints and area of one painted person."""
    height, width = part_HW.shape
    x, y, wide, high = cv2.boundingRect(part_HW)
    keypoints_K3 = np.zeros((COCO_PERSON.keypoints, 3), np.float32)
    point_K2 = place.figure.keypoints_K2 * np.float32(place.scale_px) + np.asarray(place.origin_xy, np.float32)
    for keypoint, (point_x, point_y) in enumerate(point_K2):
        if 0 <= point_x < width and 0 <= point_y < height:
            pixel = int(point_y), int(point_x)
            visible = shows_HW[pixel] and place.figure.shows(keypoint, int(part_HW[pixel]))
            if visible or not (keypoint < _FACE_KEYPOINTS and part_HW[pixel] == Part.HEAD):
                keypoints_K3[keypoint] = point_x, point_y, 2 if visible else 1
    return (x, y, x + wide, y + high), keypoints_K3, cv2.countNonZero(part_HW)


def _background(rng: Generator, width: int, height: int) -> ImageArray:
    """Wall or sky above, ground below, stripes or clutter, all softer than the people."""
    above, below = _SCENES[rng.integers(len(_SCENES))]
    horizon = int(height * rng.uniform(0.45, 0.85))
    canvas_HW3 = np.empty((height, width, 3), np.uint8)
    for (start, stop), tone in (((0, horizon), above), ((horizon, height), below)):
        ends = np.clip(np.array(tone) + rng.integers(-18, 19, 3) + rng.uniform(-35, 35, (2, 1)), 0, 255)
        canvas_HW3[start:stop] = np.linspace(ends[0], ends[1], stop - start, dtype=np.float32)[:, None]
    kind = rng.integers(4)
    if kind == 1:
        _stripes(rng, canvas_HW3[:horizon])
    elif kind >= 2:
        _clutter(rng, canvas_HW3)
    if rng.random() < 0.5:
        blur_px = max(1, round(width * rng.uniform(0.005, 0.03)))
        canvas_HW3 = cv2.blur(canvas_HW3, (blur_px, blur_px))
    cells = int(rng.integers(4, 40))
    patches = rng.integers(0, 256, (cells, cells), dtype=np.uint8)
    texture_HW = cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
    strength = rng.uniform(0.02, 0.16)
    texture_HW3 = cv2.cvtColor(texture_HW, cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(canvas_HW3, 1 - strength, texture_HW3, strength, 0), np.uint8)


def _stripes(rng: Generator, canvas_HW3: ImageArray) -> None:
    height, width = canvas_HW3.shape[:2]
    step_px = max(4, int(width * rng.uniform(0.04, 0.15)))
    tone, slant_px = _tone(rng), int(rng.integers(-width, width) * 0.3)
    for x in range(-width, 2 * width, 2 * step_px):
        corners = np.array([(x, 0), (x + step_px, 0), (x + step_px + slant_px, height), (x + slant_px, height)])
        cv2.fillConvexPoly(canvas_HW3, corners, tone, cv2.LINE_AA)


def _clutter(rng: Generator, canvas_HW3: ImageArray) -> None:
    """Boxes, discs and triangles, such as windows, furniture and trees might be."""
    height, width = canvas_HW3.shape[:2]
    for _ in range(rng.integers(3, 14)):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        wide, high = (int(side * rng.uniform(0.04, 0.35)) for side in (width, height))
        kind = rng.integers(3)
        if kind == 0:
            cv2.rectangle(canvas_HW3, (x, y), (x + wide, y + high), _tone(rng), cv2.FILLED)
        elif kind == 1:
            cv2.ellipse(canvas_HW3, (x, y), (wide // 2, high // 2), 0, 0, 360, _tone(rng), cv2.FILLED, cv2.LINE_AA)
        else:
            corners = np.array([(x, y), (x + wide, y + high), (x - wide // 2, y + high)])
            cv2.fillConvexPoly(canvas_HW3, corners, _tone(rng), cv2.LINE_AA)


def _shadow(canvas_HW3: ImageArray, place: _Place) -> None:
    height, width = canvas_HW3.shape[:2]
    left, _, right, bottom = place.box_xyxy
    radius_x, radius_y = int((right - left) * 0.45), max(1, int(place.scale_px * 0.035))
    middle = int((left + right) / 2), int(bottom - radius_y)
    x0, x1 = np.clip((middle[0] - radius_x, middle[0] + radius_x + 1), 0, width)
    y0, y1 = np.clip((middle[1] - radius_y, middle[1] + radius_y + 1), 0, height)
    if x0 < x1 and y0 < y1:
        patch = canvas_HW3[y0:y1, x0:x1]
        dark = patch.copy()
        centre = middle[0] - int(x0), middle[1] - int(y0)
        cv2.ellipse(dark, centre, (radius_x, radius_y), 0, 0, 360, (20, 20, 24), cv2.FILLED, cv2.LINE_AA)
        patch[:] = cv2.addWeighted(patch, 0.6, dark, 0.4, 0)


def _seat(rng: Generator, canvas_HW3: ImageArray, owner_HW: ImageArray, place: _Place) -> None:
    """A block to sit on."""
    x, y = place.origin_xy
    half_px, tone = 0.11 * place.scale_px, _tone(rng)
    corners = (int(x - half_px), int(y + 0.05 * place.scale_px)), (int(x + half_px), int(place.box_xyxy[3]) - 1)
    cv2.rectangle(canvas_HW3, *corners, tone, cv2.FILLED)
    cv2.rectangle(owner_HW, *corners, _OBJECT, cv2.FILLED)


def _paint_object(rng: Generator, canvas_HW3: ImageArray, owner_HW: ImageArray, box_xyxy: FloatArray) -> None:
    """A post, crate or bush that hides a part of the person in `box_xyxy`."""
    left, top, right, bottom = (float(edge) for edge in box_xyxy)
    wide, high = right - left, bottom - top
    kind, tone = rng.integers(3), _tone(rng)
    for target, colour in ((canvas_HW3, tone), (owner_HW, _OBJECT)):
        if kind == 0:
            x = int(left + wide * 0.3)
            corner = (x, 0), (x + max(2, int(wide * 0.16)), canvas_HW3.shape[0])
            cv2.rectangle(target, *corner, colour, cv2.FILLED)
        elif kind == 1:
            corner = (
                (int(left - wide * 0.1), int(bottom - high * 0.2)),
                (int(left + wide * 0.7), int(bottom + high * 0.02)),
            )
            cv2.rectangle(target, *corner, colour, cv2.FILLED)
        else:
            centre, axes = (int(right - wide * 0.2), int(bottom - high * 0.06)), (int(wide * 0.4), int(high * 0.16))
            cv2.ellipse(target, centre, axes, 0, 0, 360, colour, cv2.FILLED)


def _camera(rng: Generator, canvas_HW3: ImageArray) -> ImageArray:
    """Exposure and sensor noise."""
    gain, offset, grain = rng.uniform(0.85, 1.1), rng.uniform(-12, 12), int(rng.integers(2, 9))
    noise_HW = rng.integers(0, 2 * grain + 1, canvas_HW3.shape[:2], dtype=np.uint8)
    noise_HW3 = cv2.cvtColor(noise_HW, cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(canvas_HW3, gain, noise_HW3, 1.0, offset - grain), np.uint8)


def _tone(rng: Generator) -> tuple[int, int, int]:
    """A muted colour, so that clothes stand out."""
    grey = rng.integers(50, 220)
    red, green, blue = np.clip(grey + rng.integers(-35, 36, 3), 0, 255).tolist()
    return red, green, blue
