"""Kinematics of synthetic people: a random build takes a natural pose and is seen from some side.

Lengths are in body heights (a standing person is about 1 tall). Body frame: origin between the hips, x to the
person's own left, y up, z forward. View frame: x to the right of the image, y down, z towards the camera; a person
who turns by 0 degrees faces the camera, so the own left side is on the right of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Stance = Literal["stand", "walk", "step", "sit", "lie"]
_Range = tuple[float, float]
_Points = dict[str, Vector]

SIDES = (("left", 1.0), ("right", -1.0))
_STANCES: tuple[Stance, ...] = ("stand", "walk", "step", "sit", "lie")
_STANCE_CHANCES = (0.66, 0.27, 0.03, 0.03, 0.01)

_HEAD_POINTS = {
    "brow": (0.0, 0.004, 0.012),
    "jaw": (0.0, -0.034, 0.018),
    "hair_top": (0.0, 0.024, -0.002),
    "hair_back": (0.0, 0.004, -0.018),
    "hair_end": (0.0, -0.110, -0.040),
    "nose_root": (0.0, 0.006, 0.060),
    "nose": (0.0, -0.012, 0.068),
    "mouth_left": (0.014, -0.040, 0.052),
    "mouth_right": (-0.014, -0.040, 0.052),
    "left_eye": (0.022, 0.010, 0.054),
    "right_eye": (-0.022, 0.010, 0.054),
    "left_ear": (0.057, -0.006, -0.002),
    "right_ear": (-0.057, -0.006, -0.002),
}
_FACE_NORMALS = {
    "nose_normal": (0.0, 0.0, 1.0),
    "left_eye_normal": (0.5, 0.0, 0.87),
    "right_eye_normal": (-0.5, 0.0, 0.87),
    "left_ear_normal": (1.0, 0.0, 0.0),
    "right_ear_normal": (-1.0, 0.0, 0.0),
}


@dataclass(frozen=True, slots=True)
class Body:
    """A posed body in the view frame: COCO's keypoints and helper points by name, `<name>_normal` as unit vectors."""

    points: dict[str, tuple[float, float, float]]
    stance: Stance
    girth: float
    head_size: float


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


class _Arm(NamedTuple):
    """Ranges in degrees, and where the forearm bends to (outward, up, forward)."""

    abduction_deg: _Range
    flexion_deg: _Range
    elbow_deg: _Range
    bend: tuple[float, float, float]


_HANGING = _Arm((6, 20), (-8, 14), (5, 28), (-0.2, 0.0, 1.0))
_ARMS = (
    _HANGING,
    _Arm((30, 50), (-15, 5), (75, 100), (-1.0, 0.0, 0.45)),  # hand on the hip
    _Arm((138, 168), (-5, 15), (0, 35), (-0.6, 0.0, 0.5)),  # raised
    _Arm((70, 105), (0, 20), (60, 100), (0.0, 1.0, 0.3)),  # waving
    _Arm((5, 25), (50, 95), (0, 40), (-0.3, 1.0, 0.0)),  # reaching forward
    _Arm((55, 95), (-5, 15), (0, 30), (0.0, 0.5, 1.0)),  # spread
    _Arm((8, 25), (10, 35), (75, 110), (-0.7, 0.4, 0.8)),  # folded
)
_ARM_CHANCES = (0.87, 0.03, 0.04, 0.02, 0.01, 0.02, 0.01)


class _Leg(NamedTuple):
    flexion_deg: float
    abduction_deg: float
    knee_deg: float


def random_body(rng: Generator) -> Body:
    """A body of random proportions, mostly upright, mostly seen from the front or in profile."""
    build = _random_build(rng)
    stance = _STANCES[rng.choice(len(_STANCES), p=_STANCE_CHANCES)]
    points = _pose(rng, build, stance)
    view_P3 = np.stack(list(points.values())) @ _random_view(rng, stance).T * (1, -1, 1)
    seen = {name: (x, y, z) for name, (x, y, z) in zip(points, view_P3.tolist(), strict=True)}
    return Body(seen, stance, rng.uniform(1.0, 1.35), build.head)


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
    )


def _pose(rng: Generator, build: _Build, stance: Stance) -> _Points:
    """Every named point of a posed body, in the body frame."""
    legs = _random_legs(rng, stance)
    lean_deg = rng.uniform(-4, 14) if stance == "sit" else rng.uniform(-4, 8)
    torso_33 = _rotation(2, rng.normal(0, 3)) @ _rotation(0, lean_deg)
    neck = torso_33 @ (0, build.torso, 0)
    head_33 = (
        torso_33 @ _rotation(1, rng.normal(0, 13)) @ _rotation(0, rng.normal(4, 7)) @ _rotation(2, rng.normal(0, 4))
    )
    points = {"neck": neck, "waist": neck * 0.32} | _head(neck + torso_33 @ (0, 0.125, 0.012), head_33, build.head)
    for (side, sign), leg, opposite_leg in zip(SIDES, legs, reversed(legs), strict=True):
        points |= _leg(build, side, sign, leg)
        shoulder = neck + torso_33 @ (sign * build.shoulder_half, -0.012, 0)
        # Arms of a walker swing with the opposite leg.
        swing_deg = 0.9 * opposite_leg.flexion_deg if stance == "walk" else None
        points |= _random_arm(rng, build, shoulder, torso_33, side=side, sign=sign, swing_deg=swing_deg)
    return points


def _random_legs(rng: Generator, stance: Stance) -> tuple[_Leg, _Leg]:
    def leg(flexion_deg: _Range, abduction_deg: _Range, knee_deg: _Range) -> _Leg:
        return _Leg(rng.uniform(*flexion_deg), rng.uniform(*abduction_deg), rng.uniform(*knee_deg))

    if stance == "walk":
        pair = leg((14, 34), (0, 5), (0, 18)), leg((-26, -10), (0, 5), (10, 45))
    elif stance == "step":
        pair = leg((35, 80), (2, 25), (35, 95)), leg((-6, 6), (0, 10), (0, 8))
    elif stance == "sit":
        pair = leg((72, 92), (4, 20), (70, 95)), leg((72, 92), (4, 20), (70, 95))
    else:
        pair = leg((-4, 8), (1, 14), (0, 8)), leg((-4, 8), (1, 14), (0, 8))
    return pair if rng.random() < 0.5 else (pair[1], pair[0])


def _leg(build: _Build, side: str, sign: float, leg: _Leg) -> _Points:
    hip = np.array((sign * build.hip_half, 0, 0))
    thigh = _direction(sign, leg.abduction_deg, leg.flexion_deg)
    shank = _bent(thigh, np.array((0.0, -1.0, -1.0)), leg.knee_deg)
    knee = hip + build.thigh * thigh
    ankle = knee + build.shank * shank
    forward = _perpendicular(np.array((sign * 0.35, 0.0, 1.0)), shank)
    return {
        f"{side}_hip": hip,
        f"{side}_knee": knee,
        f"{side}_ankle": ankle,
        f"{side}_heel": ankle + 0.025 * shank,
        f"{side}_toe": ankle + 0.03 * shank + 0.075 * forward,
    }


def _random_arm(
    rng: Generator,
    build: _Build,
    shoulder: Vector,
    torso_33: Vector,
    *,
    side: str,
    sign: float,
    swing_deg: float | None,
) -> _Points:
    arm = _ARMS[rng.choice(len(_ARMS), p=_ARM_CHANCES)]
    flexion_deg = swing_deg if swing_deg is not None and arm is _HANGING else rng.uniform(*arm.flexion_deg)
    outward, up, forward = arm.bend
    upper_arm = torso_33 @ _direction(sign, rng.uniform(*arm.abduction_deg), flexion_deg)
    forearm = _bent(upper_arm, torso_33 @ (sign * outward, up, forward), rng.uniform(*arm.elbow_deg))
    elbow = shoulder + build.upper_arm * upper_arm
    wrist = elbow + build.forearm * forearm
    return {
        f"{side}_shoulder": shoulder,
        f"{side}_elbow": elbow,
        f"{side}_wrist": wrist,
        f"{side}_hand": wrist + 0.045 * forearm,
    }


def _head(centre: Vector, head_33: Vector, size: float) -> _Points:
    points = {name: centre + size * head_33 @ offset for name, offset in _HEAD_POINTS.items()}
    normals = {name: head_33 @ normal for name, normal in _FACE_NORMALS.items()}
    return points | normals | {"head": centre}


def _random_view(rng: Generator, stance: Stance) -> Vector:
    """Rotation from body to view frame (y still up): facing, a camera slightly above, and lying down."""
    facing = rng.random()
    if facing < 0.85:
        turn_deg = float(np.clip(rng.normal(0, 22), -50, 50))
    elif facing < 0.93:
        turn_deg = float(rng.choice((-1, 1)) * rng.uniform(68, 100))
    else:
        turn_deg = 180 + float(np.clip(rng.normal(0, 20), -40, 40))
    if stance == "sit" and abs(turn_deg) < 35:
        turn_deg = float(np.copysign(rng.uniform(35, 60), turn_deg))  # thighs that point at the camera are unreadable
    view_33 = _rotation(0, rng.uniform(0, 10)) @ _rotation(1, turn_deg)
    return _rotation(2, rng.choice((-1, 1)) * rng.uniform(75, 105)) @ view_33 if stance == "lie" else view_33


def _rotation(axis: int, angle_deg: float) -> Vector:
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    first, second = ((1, 2), (2, 0), (0, 1))[axis]
    matrix_33 = np.eye(3)
    matrix_33[first, first] = matrix_33[second, second] = cos
    matrix_33[first, second], matrix_33[second, first] = -sin, sin
    return matrix_33


def _direction(sign: float, abduction_deg: float, flexion_deg: float) -> Vector:
    """Unit vector of a limb that hangs down, moved outward and forward. `sign` is +1 on the left."""
    outward, forward = np.radians(abduction_deg), np.radians(flexion_deg)
    down = np.cos(outward)
    return np.array((sign * np.sin(outward), -down * np.cos(forward), down * np.sin(forward)))


def _bent(direction: Vector, toward: Vector, angle_deg: float) -> Vector:
    """Direction of the second link of a limb whose joint bends by an angle."""
    angle = np.radians(angle_deg)
    return np.asarray(np.cos(angle) * direction + np.sin(angle) * _perpendicular(toward, direction))


def _perpendicular(vector: Vector, axis: Vector) -> Vector:
    """Unit vector: the part of `vector` at right angles to the unit vector `axis`."""
    rest = vector - vector @ axis * axis
    return np.asarray(rest / max(float(np.linalg.norm(rest)), 1e-6))
