"""A colour for every keypoint and limb of any skeleton.

Left is orange and right blue, which every kind of colour sight tells apart; legs are darker, heads lighter than arms.
What lies in the middle is green. A skeleton without sides has a colour for each family of names: thumb1, thumb2.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from raypose.structures import Skeleton

Colour = tuple[int, int, int]
Side = Literal["left", "middle", "right"]

MIDDLE: Colour = (95, 225, 120)
_LEFT = {"arm": (255, 165, 45), "leg": (255, 110, 15), "head": (255, 205, 110)}
_RIGHT = {"arm": (80, 180, 255), "leg": (45, 120, 255), "head": (140, 210, 255)}
_FAMILIES: tuple[Colour, ...] = (
    (255, 165, 45), (80, 180, 255), (240, 228, 66), (225, 120, 200), (0, 200, 150), (235, 90, 40), (170, 150, 255),
)  # fmt: skip
_LEG = frozenset({"hip", "knee", "ankle", "foot", "toe", "toes", "bigtoe", "smalltoe", "heel", "leg", "thigh", "shin"})
_HEAD = frozenset({"nose", "eye", "ear", "mouth", "lip", "head", "face", "jaw", "chin", "brow", "eyebrow", "cheek"})
_SIDES: dict[str, Side] = {"left": "left", "l": "left", "right": "right", "r": "right"}


@dataclass(frozen=True, slots=True)
class PartColours:
    """RGB for each keypoint and for each edge of a skeleton."""

    keypoints: tuple[Colour, ...]
    edges: tuple[Colour, ...]


@lru_cache(maxsize=64)
def part_colours(skeleton: Skeleton) -> PartColours:
    """Sides come from names (left_knee, knee_r), and from flip pairs, left first, where names do not say."""
    sides = _sides(skeleton)
    if set(sides) == {"middle"}:
        return _by_family(skeleton)
    limbs = [_limb(name) for name in skeleton.names]
    edges = []
    for first, second in skeleton.edges:
        side = _common_side(sides[first], sides[second])
        edges.append(_colour(side, limbs[first] if limbs[first] == limbs[second] else "arm"))
    return PartColours(tuple(_colour(side, limb) for side, limb in zip(sides, limbs, strict=True)), tuple(edges))


def _sides(skeleton: Skeleton) -> list[Side]:
    sides: list[Side] = ["middle"] * skeleton.keypoints
    for first, second in skeleton.flip_pairs:
        sides[first], sides[second] = "left", "right"
    for index, name in enumerate(skeleton.names):
        words = _words(name)
        sides[index] = _SIDES.get(words[0]) or _SIDES.get(words[-1]) or sides[index]
    return sides


def _common_side(first: Side, second: Side) -> Side:
    if "middle" in (first, second):
        return second if first == "middle" else first
    return first if first == second else "middle"


def _limb(name: str) -> str:
    words = set(_words(name))
    return "leg" if words & _LEG else "head" if words & _HEAD else "arm"


def _colour(side: Side, limb: str) -> Colour:
    return MIDDLE if side == "middle" else (_LEFT if side == "left" else _RIGHT)[limb]


def _by_family(skeleton: Skeleton) -> PartColours:
    stems = [_words(name)[0] for name in skeleton.names]
    families = [stem for stem, members in Counter(stems).items() if members > 1]
    colour_of = {stem: _FAMILIES[index % len(_FAMILIES)] for index, stem in enumerate(families)}
    keypoints = tuple(colour_of.get(stem, MIDDLE) for stem in stems)
    edges = []
    for first, second in skeleton.edges:
        own = {colour_of[stem] for stem in (stems[first], stems[second]) if stem in colour_of}
        edges.append(own.pop() if len(own) == 1 else MIDDLE)
    return PartColours(keypoints, tuple(edges))


def _words(name: str) -> list[str]:
    """The letters of a name, word by word: `left_knee`, `LeftKnee` and `left knee` are left and knee."""
    return [word.lower() for word in re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+", name)] or [name]
