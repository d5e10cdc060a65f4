"""Articulated figures for synthetic data: a body takes a pose, is dressed, and turns into painted shapes.

Lengths are in body heights (a standing person is about 1 tall). Body frame: origin between the hips, x to the
person's own left, y up, z forward. View frame: x to the right of the image, y down, z towards the camera; a person
who turns by 0 degrees faces the camera, so the own left side is on the right of the image.

Shape legend: S circles of one shape, P points of an outline, K the 17 COCO keypoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from raypose.structures import COCO_PERSON, BoolArray, FloatArray, ImageArray

Colour = tuple[int, int, int]
_Vector = NDArray[np.float64]
_Range = tuple[float, float]
_Points = dict[str, _Vector]

_CIRCLE_P2 = np.stack([(np.cos(angle), np.sin(angle)) for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False)])
_SUBPIXEL_BITS = 4
_SIDES = (("left", 1.0), ("right", -1.0))


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


@dataclass(frozen=True, slots=True)
class Shape:
    """The convex hull of some circles in one colour."""

    part: Part
    colour: Colour
    depth: float
    outline_P2: FloatArray


@dataclass(frozen=True, slots=True)
class Figure:
    """A dressed body in a pose, as the camera sees it. `shapes` are ordered from back to front.

    `turned_away_K` marks keypoints on the far side of the head or trunk, which the trunk itself hides.
    """

    keypoints_K2: FloatArray
    turned_away_K: BoolArray
    shapes: tuple[Shape, ...]
    bounds_xyxy: tuple[float, float, float, float]
    sits: bool

    def paint(self, canvas_HW3: ImageArray, scale_px: float, origin_xy: tuple[float, float]) -> ImageArray:
        """Paint onto the canvas in place; returns an (H, W) map of the front-most `Part` of every pixel."""
        part_HW = np.zeros(canvas_HW3.shape[:2], np.uint8)
        # OpenCV puts integer coordinates at pixel centres, raypose at pixel corners.
        offset = np.asarray(origin_xy) - 0.5
        for shape in self.shapes:
            fixed_P2 = np.rint((shape.outline_P2 * scale_px + offset) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
            cv2.fillConvexPoly(canvas_HW3, fixed_P2, shape.colour, cv2.LINE_AA, _SUBPIXEL_BITS)
            cv2.fillConvexPoly(part_HW, fixed_P2, int(shape.part), cv2.LINE_8, _SUBPIXEL_BITS)
        return part_HW

    def visible(self, keypoint: int, part: int) -> bool:
        """Whether the keypoint shows where the front-most part of this person is `part`."""
        side, _, joint = COCO_PERSON.names[keypoint].rpartition("_")
        limbs = (Part[f"{side}_{limb}".upper()] for limb in _LIMBS_OF_JOINT.get(joint, ()))
        on_trunk = part == _TRUNK_OF_JOINT.get(joint) and not self.turned_away_K[keypoint]
        return on_trunk or part in limbs


class _Arm(NamedTuple):
    """Ranges in degrees, and where the forearm bends to (outward, up, forward)."""

    abduction: _Range
    flexion: _Range
    elbow: _Range
    bend: tuple[float, float, float]


_HANGING = _Arm((6, 20), (-8, 14), (5, 35), (-0.2, 0.0, 1.0))
_ARMS = (
    (0.40, _HANGING),
    (0.12, _Arm((30, 50), (-15, 5), (75, 100), (-1.0, 0.0, 0.45))),  # hand on the hip
    (0.14, _Arm((138, 168), (-5, 15), (0, 35), (-0.6, 0.0, 0.5))),  # raised
    (0.12, _Arm((70, 105), (0, 20), (60, 100), (0.0, 1.0, 0.3))),  # waving
    (0.08, _Arm((5, 25), (50, 95), (0, 40), (-0.3, 1.0, 0.0))),  # reaching forward
    (0.09, _Arm((55, 95), (-5, 15), (0, 30), (0.0, 0.5, 1.0))),  # spread
    (0.05, _Arm((8, 25), (10, 35), (75, 110), (-0.7, 0.4, 0.8))),  # folded
)


class _Leg(NamedTuple):
    """Angles in degrees."""

    flexion: float
    abduction: float
    knee: float


@dataclass(frozen=True, slots=True)
class _Build:
    """Lengths of one body."""

    thigh: float
    shank: float
    torso: float
    upper_arm: float
    forearm: float
    shoulder_half: float
    hip_half: float
    head: float
    girth: float


@dataclass(frozen=True, slots=True)
class _Outfit:
    skin: _Vector
    hair: _Vector
    shirt: _Vector
    trousers: _Vector
    shoes: _Vector
    long_sleeves: bool
    long_trousers: bool
    skirt: bool
    long_hair: bool
    backpack: bool


def random_figure(rng: Generator) -> Figure:
    """A person of random build, clothes, pose and facing: mostly upright and frontal or in profile."""
    build, outfit = _random_build(rng), _random_outfit(rng)
    stance = rng.choice(["stand", "walk", "step", "sit", "lie"], p=[0.50, 0.26, 0.10, 0.11, 0.03])
    points = _pose(rng, build, stance)
    view_33 = _random_view(rng, stance)
    seen = dict(zip(points, np.stack(list(points.values())) @ view_33.T * (1, -1, 1), strict=True))
    shapes = sorted(_shapes(seen, build, outfit), key=lambda shape: shape.depth)
    outline_P2 = np.concatenate([shape.outline_P2 for shape in shapes])
    (left, top), (right, bottom) = outline_P2.min(0), outline_P2.max(0)
    return Figure(
        np.stack([seen[name][:2] for name in COCO_PERSON.names]).astype(np.float32),
        _turned_away(seen),
        tuple(shapes),
        (float(left), float(top), float(right), float(bottom)),
        stance == "sit",
    )


def _random_build(rng: Generator) -> _Build:
    def around(value: float, spread: float = 0.07) -> float:
        return value * rng.uniform(1 - spread, 1 + spread)

    return _Build(
        thigh=around(0.245),
        shank=around(0.245),
        torso=around(0.285),
        upper_arm=around(0.170),
        forearm=around(0.150),
        shoulder_half=around(0.112, 0.12),
        hip_half=around(0.070, 0.12),
        head=around(1.08, 0.08),
        girth=rng.uniform(0.88, 1.25),
    )


def _random_outfit(rng: Generator) -> _Outfit:
    light, dark = np.array((244, 210, 184)), np.array((96, 62, 44))
    hairs = ((28, 22, 20), (62, 40, 26), (118, 78, 42), (196, 160, 92), (150, 62, 34), (150, 150, 152))
    skirt = bool(rng.random() < 0.12)
    return _Outfit(
        skin=light + (dark - light) * rng.uniform(0, 1) ** 1.3,
        hair=np.array(hairs[rng.integers(len(hairs))], float),
        shirt=_random_cloth(rng, 90, 245),
        trousers=_random_cloth(rng, 40, 190),
        shoes=_random_cloth(rng, 20, 110),
        long_sleeves=bool(rng.random() < 0.5),
        long_trousers=not skirt and bool(rng.random() < 0.72),
        skirt=skirt,
        long_hair=bool(rng.random() < 0.3),
        backpack=bool(rng.random() < 0.2),
    )


def _random_cloth(rng: Generator, darkest: int, brightest: int) -> _Vector:
    hsv = np.array([[[rng.integers(180), rng.integers(30, 230), rng.integers(darkest, brightest)]]], np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0], float)


def _pose(rng: Generator, build: _Build, stance: str) -> _Points:
    """Every named point of a posed body, in the body frame."""
    legs = _random_legs(rng, stance)
    lean_deg = rng.uniform(-4, 14) if stance == "sit" else rng.uniform(-4, 8)
    torso_33 = _rotation(2, rng.normal(0, 3)) @ _rotation(0, lean_deg)
    neck = torso_33 @ (0, build.torso, 0)
    points = {"neck": neck, "waist": neck * 0.32}
    for (side, sign), leg in zip(_SIDES, legs, strict=True):
        hip = np.array((sign * build.hip_half, 0, 0))
        thigh = _direction(sign, leg.abduction, leg.flexion)
        knee, ankle, shank = _two_links(hip, thigh, (0.0, -1.0, -1.0), leg.knee, build.thigh, build.shank)
        toe = _perpendicular(np.array((sign * 0.35, 0.0, 1.0)), shank)
        points |= {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle}
        points |= {f"{side}_heel": ankle + 0.025 * shank, f"{side}_toe": ankle + 0.03 * shank + 0.075 * toe}
    for (side, sign), other_leg in zip(_SIDES, reversed(legs), strict=True):
        arm = _choose(rng, _ARMS)
        flexion = rng.uniform(*arm.flexion)
        if stance == "walk" and arm is _HANGING:
            flexion = 0.9 * other_leg.flexion  # arms swing with the opposite leg
        upper = torso_33 @ _direction(sign, rng.uniform(*arm.abduction), flexion)
        bend = torso_33 @ (sign * arm.bend[0], arm.bend[1], arm.bend[2])
        shoulder = neck + torso_33 @ (sign * build.shoulder_half, -0.012, 0)
        elbow, wrist, forearm = _two_links(
            shoulder, upper, bend, rng.uniform(*arm.elbow), build.upper_arm, build.forearm
        )
        points |= {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": wrist}
        points[f"{side}_hand"] = wrist + 0.045 * forearm
    head_33 = (
        torso_33 @ _rotation(1, rng.normal(0, 13)) @ _rotation(0, rng.normal(4, 7)) @ _rotation(2, rng.normal(0, 4))
    )
    return points | _head(neck + torso_33 @ (0, 0.125, 0.012), head_33 * build.head)


def _random_legs(rng: Generator, stance: str) -> tuple[_Leg, _Leg]:
    def leg(flexion: _Range, abduction: _Range, knee: _Range) -> _Leg:
        return _Leg(rng.uniform(*flexion), rng.uniform(*abduction), rng.uniform(*knee))

    if stance == "walk":
        pair = leg((14, 34), (0, 5), (0, 18)), leg((-26, -10), (0, 5), (10, 45))
    elif stance == "step":
        pair = leg((35, 80), (2, 25), (35, 95)), leg((-6, 6), (0, 10), (0, 8))
    elif stance == "sit":
        pair = leg((72, 95), (4, 20), (70, 100)), leg((72, 95), (4, 20), (70, 100))
    else:
        pair = leg((-4, 8), (1, 14), (0, 8)), leg((-4, 8), (1, 14), (0, 8))
    return pair if rng.random() < 0.5 else (pair[1], pair[0])


def _head(centre: _Vector, head_33: _Vector) -> _Points:
    """Points of the head. Normals of the face's keypoints are kept as `<name>_normal`, free vectors."""
    local = {
        "crown": (0, 0.020, 0.000),
        "jaw": (0, -0.030, 0.018),
        "hair_top": (0, 0.028, -0.008),
        "hair_back": (0, -0.002, -0.016),
        "hair_end": (0, -0.110, -0.040),
        "nose_root": (0, 0.010, 0.060),
        "nose": (0, -0.010, 0.070),
        "mouth_left": (0.012, -0.036, 0.056),
        "mouth_right": (-0.012, -0.036, 0.056),
        "left_eye": (0.022, 0.012, 0.054),
        "right_eye": (-0.022, 0.012, 0.054),
        "left_ear": (0.057, -0.002, -0.002),
        "right_ear": (-0.057, -0.002, -0.002),
    }
    normals = {
        "nose_normal": (0, 0.0, 1.0),
        "left_eye_normal": (0.5, 0, 0.87),
        "right_eye_normal": (-0.5, 0, 0.87),
        "left_ear_normal": (1.0, 0, 0.0),
        "right_ear_normal": (-1.0, 0, 0.0),
    }
    points = {name: centre + head_33 @ np.asarray(offset) for name, offset in local.items()}
    return points | {name: head_33 @ np.asarray(normal) for name, normal in normals.items()} | {"head": centre}


def _random_view(rng: Generator, stance: str) -> _Vector:
    """Rotation from body to view frame (y still up): facing, a camera slightly above, and lying down."""
    facing = rng.random()
    if facing < 0.52:
        turn_deg = float(np.clip(rng.normal(0, 22), -50, 50))
    elif facing < 0.85:
        turn_deg = rng.choice((-1, 1)) * rng.uniform(68, 100)
    else:
        turn_deg = 180 + float(np.clip(rng.normal(0, 20), -40, 40))
    if stance == "sit" and abs(turn_deg) < 35:
        turn_deg = float(np.copysign(rng.uniform(35, 60), turn_deg))  # thighs that point at the camera cannot be read
    view_33 = _rotation(0, rng.uniform(0, 10)) @ _rotation(1, turn_deg)
    return _rotation(2, rng.choice((-1, 1)) * rng.uniform(75, 105)) @ view_33 if stance == "lie" else view_33


def _turned_away(seen: _Points) -> BoolArray:
    """Which keypoints lie on the far side of head or trunk."""
    away = []
    for name in COCO_PERSON.names:
        side, _, joint = name.rpartition("_")
        if joint in ("nose", "eye", "ear"):
            limit = {"nose": -0.2, "eye": 0.05, "ear": -0.28}[joint]
            away.append(seen[f"{name}_normal"][2] < limit)
        elif joint in ("shoulder", "hip"):
            opposite = seen[f"{'right' if side == 'left' else 'left'}_{joint}"]
            away.append(seen[name][2] - opposite[2] < -0.06)
        else:
            away.append(False)
    return np.array(away, np.bool_)


def _shapes(seen: _Points, build: _Build, outfit: _Outfit) -> Iterator[Shape]:
    yield from _trunk(seen, build, outfit)
    for side, _ in _SIDES:
        yield from _arm_shapes(seen, side, build.girth, outfit)
        yield from _leg_shapes(seen, side, build.girth, outfit)
    yield from _head_shapes(seen, build.head, outfit)


def _trunk(seen: _Points, build: _Build, outfit: _Outfit) -> Iterator[Shape]:
    girth = build.girth
    shoulders, hips = (
        [(f"{s}_shoulder", 0.040 * girth) for s, _ in _SIDES],
        [(f"{s}_hip", 0.056 * girth) for s, _ in _SIDES],
    )
    yield from _solid(seen, Part.TORSO, outfit.trousers, [*hips, ("waist", 0.070 * girth)], depth=-0.012)
    chest = [*shoulders, ("waist", 0.078 * girth), *((name, radius * 0.95) for name, radius in hips)]
    yield from _solid(seen, Part.TORSO, outfit.shirt, chest, depth=-0.010)
    yield from _solid(
        seen, Part.HEAD, outfit.skin * 0.9, [("neck", 0.030 * girth), ("head", 0.026 * girth)], depth=-0.005
    )
    if outfit.skirt:
        hem = [(f"{s}_knee", 0.075 * girth) for s, _ in _SIDES]
        short = {name: seen[name.replace("knee", "hip")] * 0.42 + seen[name] * 0.58 for name, _ in hem}
        yield from _solid(seen | short, Part.TORSO, outfit.trousers, [*hips, *hem], depth=0.05)
    if outfit.backpack:
        back = _backward(seen) * 0.07
        pack = {"pack_top": seen["neck"] * 0.85 + seen["waist"] * 0.15 + back, "pack_low": seen["waist"] + back}
        yield from _solid(pack, Part.TORSO, outfit.shoes + 30, [("pack_top", 0.055), ("pack_low", 0.068)], depth=0.0)


def _backward(seen: _Points) -> _Vector:
    """Unit vector out of the person's back, in the view frame."""
    across, up = seen["left_shoulder"] - seen["right_shoulder"], seen["neck"] - seen["waist"]
    out = np.cross(across, up)  # the view frame is left-handed (y down), so this points backward
    return np.asarray(out / np.linalg.norm(out))


def _arm_shapes(seen: _Points, side: str, girth: float, outfit: _Outfit) -> Iterator[Shape]:
    upper, lower = Part[f"{side}_UPPER_ARM".upper()], Part[f"{side}_FOREARM".upper()]
    sleeve = outfit.shirt if outfit.long_sleeves else outfit.skin
    elbow, wrist, hand = f"{side}_elbow", f"{side}_wrist", f"{side}_hand"
    depth = 0.035  # beside the trunk an arm is painted over it
    yield from _solid(seen, upper, outfit.shirt, [(f"{side}_shoulder", 0.040 * girth), (elbow, 0.031 * girth)], depth)
    yield from _solid(seen, lower, outfit.skin, [(wrist, 0.021), (hand, 0.019)], depth)
    yield from _solid(seen, lower, sleeve, [(elbow, 0.029 * girth), (wrist, 0.022 * girth)], depth + 0.002)


def _leg_shapes(seen: _Points, side: str, girth: float, outfit: _Outfit) -> Iterator[Shape]:
    thigh, shank = Part[f"{side}_THIGH".upper()], Part[f"{side}_SHANK".upper()]
    bare = outfit.skin if outfit.skirt else outfit.trousers
    calf = outfit.trousers if outfit.long_trousers else outfit.skin
    hip, knee, ankle = f"{side}_hip", f"{side}_knee", f"{side}_ankle"
    yield from _solid(seen, shank, calf, [(knee, 0.042 * girth), (ankle, 0.027 * girth)])
    yield from _solid(seen, thigh, bare, [(hip, 0.060 * girth), (knee, 0.045 * girth)], depth=0.004)
    yield from _solid(seen, shank, outfit.shoes, [(f"{side}_heel", 0.026), (f"{side}_toe", 0.019)], depth=0.01)


def _head_shapes(seen: _Points, size: float, outfit: _Outfit) -> Iterator[Shape]:
    """Head, hair and face, stacked around the depth of the head's centre."""
    toward = seen["nose_normal"][2]
    base = seen["head"][2] + 0.03

    def layer(colour: _Vector, circles: list[tuple[str, float]], depth: float) -> Shape:
        return _shape(seen, Part.HEAD, colour, [(name, radius * size) for name, radius in circles], base + depth)

    skull = [("crown", 0.054), ("jaw", 0.038)]
    hair = [("hair_top", 0.058), ("hair_back", 0.056)]
    face_over_hair = 0.004 if toward > -0.15 else -0.004
    yield layer(outfit.skin * 0.82, skull, face_over_hair - 0.001)
    yield layer(outfit.skin, [("crown", 0.048), ("jaw", 0.033)], face_over_hair)
    yield layer(outfit.hair, hair, 0.0)
    if outfit.long_hair:
        yield layer(outfit.hair, [("hair_back", 0.052), ("hair_end", 0.036)], -0.05 if toward > -0.1 else 0.003)
    for side, _ in _SIDES:
        near = seen[f"{side}_ear_normal"][2] > -0.28
        yield layer(outfit.skin * 0.75, [(f"{side}_ear", 0.014)], 0.006 if near else -0.01)
        if seen[f"{side}_eye_normal"][2] > 0.05:
            yield layer(np.full(3, 245.0), [(f"{side}_eye", 0.0115)], 0.007)
            yield layer(np.full(3, 25.0), [(f"{side}_eye", 0.0065)], 0.008)
    if toward > -0.2:
        yield layer(outfit.skin * 0.68, [("nose_root", 0.005), ("nose", 0.010)], 0.007)
    if toward > 0.1:
        yield layer(np.array((150.0, 55, 55)), [("mouth_left", 0.005), ("mouth_right", 0.005)], 0.007)


def _solid(
    seen: _Points, part: Part, colour: _Vector, circles: list[tuple[str, float]], depth: float = 0.0
) -> Iterator[Shape]:
    """A shaded body part: a dark outline and, inside it, a lit face. Far parts are darker."""
    z = float(np.mean([seen[name][2] for name, _ in circles]))
    light = float(np.clip(1.0 + 1.1 * z, 0.72, 1.08))
    yield _shape(seen, part, colour * light * 0.66, circles, z + depth)
    yield _shape(seen, part, colour * light, [(name, radius * 0.80) for name, radius in circles], z + depth)


def _shape(seen: _Points, part: Part, colour: _Vector, circles: list[tuple[str, float]], depth: float) -> Shape:
    centre_S2 = np.stack([seen[name][:2] for name, _ in circles])
    radius_S = np.array([radius for _, radius in circles])
    point_P2 = (centre_S2[:, None] + radius_S[:, None, None] * _CIRCLE_P2).reshape(-1, 2).astype(np.float32)
    red, green, blue = np.clip(colour, 0, 255).astype(int).tolist()
    return Shape(part, (red, green, blue), depth, cv2.convexHull(point_P2)[:, 0])


def _rotation(axis: int, angle_deg: float) -> _Vector:
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    first, second = ((1, 2), (2, 0), (0, 1))[axis]
    matrix_33 = np.eye(3)
    matrix_33[first, first] = matrix_33[second, second] = cos
    matrix_33[first, second], matrix_33[second, first] = -sin, sin
    return matrix_33


def _direction(sign: float, abduction_deg: float, flexion_deg: float) -> _Vector:
    """Unit vector of a limb that hangs down, moved outward and forward. `sign` is +1 on the left."""
    outward, forward = np.radians(abduction_deg), np.radians(flexion_deg)
    down = np.cos(outward)
    return np.array((sign * np.sin(outward), -down * np.cos(forward), down * np.sin(forward)))


def _perpendicular(vector: _Vector, axis: _Vector) -> _Vector:
    """Unit vector: the part of `vector` at right angles to the unit vector `axis`."""
    rest = vector - vector @ axis * axis
    return np.asarray(rest / max(float(np.linalg.norm(rest)), 1e-6))


def _two_links(
    start: _Vector, first: _Vector, bend: _Vector | tuple[float, float, float], angle_deg: float,
    first_length: float, second_length: float,
) -> tuple[_Vector, _Vector, _Vector]:  # fmt: skip
    """Middle joint, end joint and direction of the second link of an arm or leg."""
    angle = np.radians(angle_deg)
    second = np.cos(angle) * first + np.sin(angle) * _perpendicular(np.asarray(bend), first)
    middle = start + first_length * first
    return middle, middle + second_length * second, second


def _choose(rng: Generator, weighted: tuple[tuple[float, _Arm], ...]) -> _Arm:
    return weighted[rng.choice(len(weighted), p=[weight for weight, _ in weighted])][1]
