"""Rules about the set as a whole: its skeleton, its classes, and images that look alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from raypose.data.importers.keypoint_names import flip_pairs_from_names
from raypose.data.lint.findings import WHOLE_SET, Finding, Severity
from raypose.data.lint.looks import Looks
from raypose.structures import Skeleton

RARE = 100
"""A class with so many times fewer people than the most frequent one is hardly learnt."""


def skeleton_findings(skeleton: Skeleton, people: int, enough_people: int) -> Iterator[Finding]:
    """What the skeleton leaves open. `people` are those that proportions and sides are learnt from."""
    if skeleton.sigmas is None:
        yield _of_set("skeleton", "no OKS sigmas: pose AP takes the same constant for every keypoint", "note")
    if not skeleton.flip_pairs and (pairs := flip_pairs_from_names(skeleton.names)):
        first = " and ".join(skeleton.names[index] for index in pairs[0])
        text = f"no flip pairs, but {first} look like one: mirrored images would teach left as right"
        yield _of_set("skeleton", text, "warning")
    if not skeleton.edges:
        yield _of_set("skeleton", "no edges: limbs are neither drawn nor judged", "note")
    if people < enough_people:
        text = f"{people} labelled people, expected {enough_people} or more: limbs and sides were not judged"
        yield _of_set("skeleton", text, "note")


def class_findings(names: Sequence[str], per_class: NDArray[np.int64]) -> Iterator[Finding]:
    """Classes that training hardly sees."""
    most = int(per_class.max(initial=0))
    for name, count in zip(names, per_class.tolist(), strict=True):
        if count * RARE < most:
            text = f"class {name}: {count:,} labelled people, {names[int(per_class.argmax())]} has {most:,}"
            yield _of_set("class-balance", text, "warning")


def duplicate_findings(looks: Looks) -> Iterator[Finding]:
    """Each image that looks like an earlier one of the set, once."""
    twin_of: dict[int, int] = {}
    settled: set[int] = set()
    repeated = set(looks.repeated().tolist())
    for image_hash in repeated:
        for first, *others in looks.of(image_hash):
            twin_of |= dict.fromkeys(others, first)
    for one, other in looks.near().tolist():
        if other in settled and one not in repeated:  # a thousand frames of a scene are half a million pairs
            continue
        for pair in product(looks.of(one), looks.of(other)):
            earlier, later = sorted(look[0] for look in pair)
            if later not in twin_of and looks.are_alike(later, looks, earlier):
                twin_of[later] = earlier
        if all(look[0] in twin_of for look in looks.of(other)):
            settled.add(other)
    for place, twin in sorted(twin_of.items()):
        text = f"looks like {looks.sample(twin).id}: {_bits(looks.hash_N[twin], looks.hash_N[place])}"
        yield Finding("duplicate", looks.sample(place).id, None, (), text, "warning", place, twin)


def leakage_findings(looks: Looks, beyond: Looks) -> Iterator[Finding]:
    """Each image that looks like one of the other set, once."""
    twin_of: dict[int, int] = {}
    settled: set[int] = set()
    for image_hash, hash_beyond in looks.near_in(beyond).tolist():
        if image_hash in settled:
            continue
        for look, twin in product(looks.of(image_hash), beyond.of(hash_beyond)):
            if look[0] not in twin_of and looks.are_alike(look[0], beyond, twin[0]):
                twin_of |= dict.fromkeys(look, twin[0])
        if all(look[0] in twin_of for look in looks.of(image_hash)):
            settled.add(image_hash)
    for place, twin_place in sorted(twin_of.items()):
        found = f"looks like {beyond.sample(twin_place).id} of {beyond.shard_set.url}"
        text = f"{found}: {_bits(looks.hash_N[place], beyond.hash_N[twin_place])}"
        yield Finding("leakage", looks.sample(place).id, None, (), text, "error", place, twin_place)


def _bits(one: np.uint64, other: np.uint64) -> str:
    distance = int(np.bitwise_count(one ^ other))
    return f"hashes differ in {distance} of 64 bits" if distance else "equal hashes"


def _of_set(rule: str, text: str, severity: Severity) -> Finding:
    return Finding(rule, "", None, (), text, severity, WHOLE_SET)
