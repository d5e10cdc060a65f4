"""Rules about the set as a whole: its skeleton, its classes, and images that look alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from raypose.data.importers.keypoint_names import flip_pairs_from_names
from raypose.data.lint.findings import WHOLE_SET, Finding, Severity
from raypose.data.lint.hashing import MIN_CORRELATION, Hashes, correlation, near_pairs, thumbnail
from raypose.data.shard_set import ShardSet
from raypose.structures import Sample, Skeleton

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


def duplicate_findings(shard_set: ShardSet, hash_N: Hashes) -> Iterator[Finding]:
    """Each image that looks like an earlier one of the set, once."""
    seen: set[int] = set()
    for earlier, later in near_pairs(hash_N).tolist():
        if later in seen or (found := _compare(_at(shard_set, later), _at(shard_set, earlier))) is None:
            continue
        seen.add(later)
        text = f"{found}: {_bits(hash_N[earlier], hash_N[later])}"
        yield Finding("duplicate", _at(shard_set, later).id, None, (), text, "warning", later, earlier)


def leakage_findings(shard_set: ShardSet, hash_N: Hashes, other: ShardSet, other_N: Hashes) -> Iterator[Finding]:
    """Each image that looks like one of the other set, once."""
    seen: set[int] = set()
    for place, beyond in near_pairs(np.concatenate([hash_N, other_N])).tolist():
        twin = beyond - len(hash_N)
        if place >= len(hash_N) or twin < 0 or place in seen:
            continue
        sample = _at(shard_set, place)
        if (found := _compare(sample, _at(other, twin))) is not None:
            seen.add(place)
            text = f"{found} of {other.url}: {_bits(hash_N[place], other_N[twin])}"
            yield Finding("leakage", sample.id, None, (), text, "error", place, twin)


def _at(shard_set: ShardSet, place: int) -> Sample:
    return shard_set.sample(*shard_set.locate(place))


def _compare(sample: Sample, twin: Sample) -> str | None:
    alike = correlation(thumbnail(sample), thumbnail(twin))
    return f"looks like {twin.id}" if alike >= MIN_CORRELATION else None


def _bits(one: np.uint64, other: np.uint64) -> str:
    distance = int(np.bitwise_count(one ^ other))
    return f"hashes differ in {distance} of 64 bits" if distance else "equal hashes"


def _of_set(rule: str, text: str, severity: Severity) -> Finding:
    return Finding(rule, "", None, (), text, severity, WHOLE_SET)
