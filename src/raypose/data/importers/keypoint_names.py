"""What keypoint names tell: mirror pairs from left and right, OKS sigmas from the body part."""

from __future__ import annotations

import re
from collections.abc import Sequence

PART_SIGMAS = {
    # The keypoint constants that COCO's evaluation states for its 17 points.
    "nose": 0.026,
    "eye": 0.025,
    "ear": 0.035,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
    # CrowdPose's constant for head and neck.
    "head": 0.079,
    "head_top": 0.079,
    "top_head": 0.079,
    "neck": 0.079,
    "upper_neck": 0.079,
}

_SIDE = re.compile(r"(left|right|l|r)[_ -](.+)")
_OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}


def flip_pairs_from_names(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """0-based pairs of names that differ only in a left_/right_ or l_/r_ at their start."""
    split = [_split_side(name) for name in names]
    place = {key: index for index, key in enumerate(split)}
    pairs = []
    for index, (side, part) in enumerate(split):
        other = place.get((_OTHER_SIDE.get(side, ""), part))
        if side and other is not None and index < other:
            pairs.append((index, other))
    return tuple(pairs)


def sigmas_from_names(names: Sequence[str]) -> tuple[float, ...] | None:
    """The constant of each keypoint's body part; None unless every part is in the table."""
    sigmas = [PART_SIGMAS.get(_split_side(name)[1]) for name in names]
    known = tuple(sigma for sigma in sigmas if sigma is not None)
    return known if len(known) == len(sigmas) else None


def _split_side(name: str) -> tuple[str, str]:
    text = name.strip().lower()
    match = _SIDE.fullmatch(text)
    side, part = match.groups() if match else ("", text)
    return side, re.sub(r"[ -]", "_", part)
