"""Figures for synthetic data: a posed body is dressed and becomes shapes, painted from back to front.

Every painted pixel remembers its body part; so what hides a keypoint is read off the picture, not guessed.
Shape legend: S circles of all shapes, P points of an outline, K the 17 COCO keypoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from raypose.data.body import SIDES, Body, random_body
from raypose.structures import COCO_PERSON, BoolArray, FloatArray, ImageArray

Colour = tuple[float, float, float]
_Circles = Sequence[tuple[str, float]]  # (point of the body, radius)

_CIRCLE_P2 = np.stack([(np.cos(angle), np.sin(angle)) for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False)])
_SUBPIXEL_BITS = 4
_OUTLINE_SHADE = 0.62
_FILLED = 0.84  # share of a part's radius inside its outline
_FILL_LIFT = 0.014  # fills lie above the outlines of neighbours, so that the links of a limb join without a seam
_WHITE, _PUPIL, _LIPS = (245.0, 245.0, 245.0), (25.0, 25.0, 25.0), (150.0, 55.0, 55.0)
_LIGHT_SKIN, _DARK_SKIN = np.array((244, 210, 184)), np.array((96, 62, 44))
_HAIR_COLOURS = ((28, 22, 20), (62, 40, 26), (118, 78, 42), (196, 160, 92), (150, 62, 34), (150, 150, 152))


class Part(IntEnum):
    """What a painted pixel of a person belongs to; 0 is no part."""

    HEAD = 1
    TORSO = 2
    LEFT_UPPER_ARM = 3
    LEFT_FOREARM = 4
    LEFT_THIGH = 5
    LEFT_SHANK = 6
    RIGHT_UPPER_ARM = 7
    RIGHT_FOREARM = 8
    RIGHT_THIGH = 9
    RIGHT_SHANK = 10


_LIMBS_OF_JOINT = {
    "shoulder": ("UPPER_ARM",),
    "elbow": ("UPPER_ARM", "FOREARM"),
    "wrist": ("FOREARM",),
    "hip": ("THIGH",),
    "knee": ("THIGH", "SHANK"),
    "ankle": ("SHANK",),
}
_TRUNK_OF_JOINT = {"shoulder": Part.TORSO, "hip": Part.TORSO, "eye": Part.HEAD, "ear": Part.HEAD, "nose": Part.HEAD}
_FACING_LIMIT = {"nose": -0.2, "eye": 0.05, "ear": -0.28}
"""A face keypoint shows while its normal points to the camera by more than this."""
_FAR_SIDE = 0.06
"""A shoulder or hip this much farther from the camera than its pair is behind the trunk."""


def _parts_of(name: str) -> frozenset[int]:
    side, _, joint = name.rpartition("_")
    return frozenset(Part[f"{side}_{limb}".upper()] for limb in _LIMBS_OF_JOINT.get(joint, ()))


_LIMBS_OF_KEYPOINT = tuple(_parts_of(name) for name in COCO_PERSON.names)
_TRUNK_OF_KEYPOINT = tuple(_TRUNK_OF_JOINT.get(name.rpartition("_")[2]) for name in COCO_PERSON.names)


class _Shape(NamedTuple):
    """The convex hull of some circles in one colour."""

    part: Part
    colour: Colour
    circles: _Circles
    depth: float


@dataclass(frozen=True, slots=True)
class _Stroke:
    """One filled polygon: points `first` to `last` of the figure's outlines."""

    part: Part
    colour: tuple[int, int, int]
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Figure:
    """A dressed body in a pose, as the camera sees it, in body heights. `strokes` run from back to front.

    `turned_away_K` marks keypoints on the far side of head or trunk, which head or trunk itself hides.
    """

    body: Body
    keypoints_K2: FloatArray
    turned_away_K: BoolArray
    outline_P2: FloatArray
    strokes: tuple[_Stroke, ...]
    bounds_xyxy: tuple[float, float, float, float]

    def paint(self, canvas_HW3: ImageArray, scale_px: float, origin_xy: tuple[float, float]) -> ImageArray:
        """Paint onto the canvas in place; returns an (H, W) map of the front-most `Part` of every pixel."""
        part_HW = np.zeros(canvas_HW3.shape[:2], np.uint8)
        # OpenCV puts integer coordinates at pixel centres, raypose at pixel corners.
        offset = np.asarray(origin_xy) - 0.5
        fixed_P2 = np.rint((self.outline_P2 * scale_px + offset) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        for stroke in self.strokes:
            polygon_P2 = fixed_P2[stroke.first : stroke.last]
            cv2.fillConvexPoly(canvas_HW3, polygon_P2, stroke.colour, cv2.LINE_AA, _SUBPIXEL_BITS)
            cv2.fillConvexPoly(part_HW, polygon_P2, int(stroke.part), cv2.LINE_8, _SUBPIXEL_BITS)
        return part_HW

    def shows(self, keypoint: int, part: int) -> bool:
        """Whether a keypoint is visible where this person's front-most part is `part`."""
        on_trunk = part == _TRUNK_OF_KEYPOINT[keypoint] and not self.turned_away_K[keypoint]
        return bool(on_trunk) or part in _LIMBS_OF_KEYPOINT[keypoint]


@dataclass(frozen=True, slots=True)
class _Outfit:
    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour
    shoes: Colour
    long_sleeves: bool
    long_trousers: bool
    skirt: bool
    long_hair: bool
    backpack: bool


def random_figure(rng: Generator) -> Figure:
    """A person of random build, pose, facing and clothes."""
    body, outfit = random_body(rng), _random_outfit(rng)
    points = body.points | _extra_points(body)
    shapes = sorted(_shapes(body, points, outfit), key=lambda shape: shape.depth)
    outline_P2, strokes = _outlined(shapes, points)
    (left, top), (right, bottom) = outline_P2.min(0).tolist(), outline_P2.max(0).tolist()
    keypoints_K2 = np.array([points[name][:2] for name in COCO_PERSON.names], np.float32)
    return Figure(body, keypoints_K2, _turned_away(body), outline_P2, strokes, (left, top, right, bottom))


def _random_outfit(rng: Generator) -> _Outfit:
    skirt = bool(rng.random() < 0.12)
    red, green, blue = (_LIGHT_SKIN + (_DARK_SKIN - _LIGHT_SKIN) * rng.uniform(0, 1) ** 1.3).tolist()
    return _Outfit(
        skin=(red, green, blue),
        hair=_HAIR_COLOURS[rng.integers(len(_HAIR_COLOURS))],
        shirt=_random_cloth(rng, 90, 245),
        trousers=_random_cloth(rng, 40, 190),
        shoes=_random_cloth(rng, 20, 110),
        long_sleeves=bool(rng.random() < 0.5),
        long_trousers=not skirt and bool(rng.random() < 0.72),
        skirt=skirt,
        long_hair=bool(rng.random() < 0.3),
        backpack=bool(rng.random() < 0.2),
    )


def _random_cloth(rng: Generator, darkest: int, brightest: int) -> Colour:
    hsv = np.array([[[rng.integers(180), rng.integers(30, 210), rng.integers(darkest, brightest)]]], np.uint8)
    red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


def _extra_points(body: Body) -> dict[str, tuple[float, float, float]]:
    """Where a skirt ends and a backpack hangs, in the view frame."""
    array = {name: np.asarray(point) for name, point in body.points.items()}
    across, up = array["left_shoulder"] - array["right_shoulder"], array["neck"] - array["waist"]
    backward = np.cross(across, up)  # backward, not forward: the view frame is left-handed (y down)
    backward *= 0.07 / np.linalg.norm(backward)
    extra = {f"{side}_hem": array[f"{side}_hip"] * 0.4 + array[f"{side}_knee"] * 0.6 for side, _ in SIDES}
    extra["pack_top"] = array["neck"] * 0.85 + array["waist"] * 0.15 + backward
    extra["pack_low"] = array["waist"] + backward
    return {name: (float(x), float(y), float(z)) for name, (x, y, z) in extra.items()}


def _turned_away(body: Body) -> BoolArray:
    away = []
    for name, mirror in zip(COCO_PERSON.names, COCO_PERSON.flip_index, strict=True):
        joint = name.rpartition("_")[2]
        if joint in _FACING_LIMIT:
            away.append(body.points[f"{name}_normal"][2] < _FACING_LIMIT[joint])
        elif joint in _TRUNK_OF_JOINT:
            away.append(body.points[name][2] < body.points[COCO_PERSON.names[mirror]][2] - _FAR_SIDE)
        else:
            away.append(False)
    return np.array(away, np.bool_)


def _outlined(
    shapes: Sequence[_Shape], points: dict[str, tuple[float, float, float]]
) -> tuple[FloatArray, tuple[_Stroke, ...]]:
    """The outlines of all shapes end to end, and what they are filled with."""
    circle_S3 = np.array([(*points[name][:2], radius) for shape in shapes for name, radius in shape.circles])
    rim_SP2 = (circle_S3[:, None, :2] + circle_S3[:, None, 2:] * _CIRCLE_P2).astype(np.float32)
    hulls: list[FloatArray] = []
    strokes = []
    circle = first = 0
    for shape in shapes:
        rim_P2 = rim_SP2[circle : circle + len(shape.circles)].reshape(-1, 2)
        hulls.append(cv2.convexHull(rim_P2)[:, 0])
        last = first + len(hulls[-1])
        red, green, blue = (min(255, max(0, round(value))) for value in shape.colour)
        strokes.append(_Stroke(shape.part, (red, green, blue), first, last))
        circle, first = circle + len(shape.circles), last
    return np.concatenate(hulls), tuple(strokes)


def _shapes(body: Body, points: dict[str, tuple[float, float, float]], outfit: _Outfit) -> Iterator[_Shape]:
    for part, colour, circles, lift in _clothed_parts(body.girth, outfit):
        depth = lift + sum(points[name][2] for name, _ in circles) / len(circles)
        light = min(1.08, max(0.72, 1.0 + 1.1 * depth))  # far parts are darker
        yield _Shape(part, _shaded(colour, light * _OUTLINE_SHADE), circles, depth)
        inner = [(name, radius * _FILLED) for name, radius in circles]
        yield _Shape(part, _shaded(colour, light), inner, depth + _FILL_LIFT)
    yield from _head_shapes(body, outfit)


def _clothed_parts(girth: float, outfit: _Outfit) -> Iterator[tuple[Part, Colour, _Circles, float]]:
    """Part, colour, circles, and how far the part is lifted towards the camera against its mean depth."""
    hips = [("left_hip", 0.055 * girth), ("right_hip", 0.055 * girth)]
    chest = [("left_shoulder", 0.040 * girth), ("right_shoulder", 0.040 * girth), ("waist", 0.076 * girth)]
    yield Part.TORSO, outfit.trousers, [*hips, ("waist", 0.068 * girth)], -0.016
    yield Part.TORSO, outfit.shirt, [*chest, *hips], -0.012
    yield Part.HEAD, outfit.skin, [("neck", 0.030 * girth), ("head", 0.026 * girth)], 0.006
    if outfit.skirt:
        yield Part.TORSO, outfit.trousers, [*hips, ("left_hem", 0.07 * girth), ("right_hem", 0.07 * girth)], 0.06
    if outfit.backpack:
        yield Part.TORSO, outfit.shoes, [("pack_top", 0.055), ("pack_low", 0.068)], 0.0
    for side, _ in SIDES:
        yield from _limbs(side, girth, outfit)


def _limbs(side: str, girth: float, outfit: _Outfit) -> Iterator[tuple[Part, Colour, _Circles, float]]:
    upper_arm, forearm = Part[f"{side}_UPPER_ARM".upper()], Part[f"{side}_FOREARM".upper()]
    thigh, shank = Part[f"{side}_THIGH".upper()], Part[f"{side}_SHANK".upper()]
    shoulder, elbow, wrist, hand = (f"{side}_{name}" for name in ("shoulder", "elbow", "wrist", "hand"))
    hip, knee, ankle = (f"{side}_{name}" for name in ("hip", "knee", "ankle"))
    sleeve = outfit.shirt if outfit.long_sleeves else outfit.skin
    # Arms lie over a trunk of the same depth.
    yield upper_arm, outfit.shirt, [(shoulder, 0.040 * girth), (elbow, 0.031 * girth)], 0.035
    yield forearm, outfit.skin, [(wrist, 0.022), (hand, 0.020)], 0.035
    yield forearm, sleeve, [(elbow, 0.030 * girth), (wrist, 0.022 * girth)], 0.037
    calf = outfit.trousers if outfit.long_trousers else outfit.skin
    yield shank, calf, [(knee, 0.042 * girth), (ankle, 0.027 * girth)], 0.0
    yield thigh, outfit.skin if outfit.skirt else outfit.trousers, [(hip, 0.060 * girth), (knee, 0.045 * girth)], 0.004
    yield shank, outfit.shoes, [(f"{side}_heel", 0.026), (f"{side}_toe", 0.019)], 0.01


def _head_shapes(body: Body, outfit: _Outfit) -> Iterator[_Shape]:
    """Head, hair and face, stacked around the depth of the head's centre."""
    facing = {name: body.points[f"{name}_normal"][2] for name in COCO_PERSON.names[:5]}
    base = body.points["head"][2] + 0.035

    def layer(colour: Colour, circles: _Circles, depth: float) -> _Shape:
        sized = [(name, radius * body.head_size) for name, radius in circles]
        return _Shape(Part.HEAD, colour, sized, base + depth)

    face_depth = 0.004 if facing["nose"] > -0.15 else -0.004  # from behind, hair covers the face
    yield layer(_shaded(outfit.skin, 0.72), [("brow", 0.051), ("jaw", 0.037)], face_depth - 0.001)
    yield layer(outfit.skin, [("brow", 0.047), ("jaw", 0.033)], face_depth)
    yield layer(outfit.hair, [("hair_top", 0.060), ("hair_back", 0.056)], 0.0)
    if outfit.long_hair:
        yield layer(outfit.hair, [("hair_back", 0.052), ("hair_end", 0.036)], -0.06 if facing["nose"] > -0.1 else 0.003)
    for side, _ in SIDES:
        ear, eye = f"{side}_ear", f"{side}_eye"
        yield layer(_shaded(outfit.skin, 0.78), [(ear, 0.014)], 0.006 if facing[ear] > _FACING_LIMIT["ear"] else -0.01)
        if facing[eye] > _FACING_LIMIT["eye"]:
            yield layer(_WHITE, [(eye, 0.0105)], 0.007)
            yield layer(_PUPIL, [(eye, 0.0065)], 0.008)
    if facing["nose"] > _FACING_LIMIT["nose"]:
        yield layer(_shaded(outfit.skin, 0.74), [("nose_root", 0.005), ("nose", 0.009)], 0.007)
    if facing["nose"] > 0.1:
        yield layer(_LIPS, [("mouth_left", 0.0045), ("mouth_right", 0.0045)], 0.007)


def _shaded(colour: Colour, light: float) -> Colour:
    red, green, blue = colour
    return red * light, green * light, blue * light
