"""All rules over a set: two passes over its records, one of which decodes its images, small."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np

from raypose.data.lint import limbs, sides
from raypose.data.lint.findings import RULES, Finding
from raypose.data.lint.labels import label_findings
from raypose.data.lint.looks import Looks
from raypose.data.lint.survey import survey
from raypose.data.lint.whole_set import class_findings, duplicate_findings, leakage_findings, skeleton_findings
from raypose.data.manifest import is_labelled
from raypose.data.shard_set import ShardSet
from raypose.errors import DataError
from raypose.structures import Sample, Skeleton


def lint_set(
    shard_set: ShardSet,
    against: ShardSet | None = None,
    *,
    rules: Collection[str] = tuple(RULES),
    progress: Callable[[int], None] | None = None,
) -> Iterator[Finding]:
    """Findings of `rules`: those of the set as a whole first, then sample by sample.

    `progress` hears the number of records read so far, of twice the set's samples and once those of `against`.
    Raises DataError for a damaged set, and for sets of different skeletons.
    """
    step = _Counter(progress)
    if against is not None and (different := shard_set.skeleton.difference(against.skeleton)):
        raise DataError(f"{against.url}: {different}; sets are compared that have one skeleton")
    known = survey(shard_set, hashes="duplicate" in rules or against is not None, progress=step)
    skeleton = shard_set.skeleton
    judge = BodyJudge(
        skeleton,
        limbs.learn_proportions(known.keypoints_MK3, skeleton),
        sides.learn_sides(known.keypoints_MK3, skeleton),
    )
    findings = [
        *skeleton_findings(skeleton, len(known.keypoints_MK3), limbs.MIN_PEOPLE),
        *class_findings(shard_set.class_names, known.per_class),
        *judge.habits(),
    ]
    yield from (finding for finding in findings if finding.rule in rules)
    looks = Looks(shard_set, known.hash_N)
    if "duplicate" in rules:
        yield from duplicate_findings(looks)
    if against is not None and "leakage" in rules:
        yield from leakage_findings(looks, Looks(against, survey(against, hashes=True, progress=step).hash_N))
    for place, sample in enumerate(shard_set):
        for finding in (
            *label_findings(sample, skeleton, place, known.median_size_px / 2),
            *judge.findings(sample, place),
        ):
            if finding.rule in rules:
                yield finding
        step(1)


class BodyJudge:
    """Limbs and sides of a sample's people, by what was learnt of the set."""

    def __init__(self, skeleton: Skeleton, proportions: limbs.Proportions, learnt: sides.Sides) -> None:
        self._skeleton, self._proportions, self._sides = skeleton, proportions, learnt

    def habits(self) -> Iterator[Finding]:
        """Pairs that look exchanged so often that nobody is named for it."""
        for index, share in enumerate(self._sides.share_P.tolist()):
            if share > sides.HABIT:
                names = "/".join(self._skeleton.names[keypoint] for keypoint in self._skeleton.flip_pairs[index])
                text = (
                    f"{names} look exchanged in {share:.0%} of all people, over {sides.HABIT:.0%}: a habit such as"
                    " crossed legs, or an error of the whole set; look at some with 'raypose data show'"
                )
                yield Finding("left-right-swap", "", None, self._skeleton.flip_pairs[index], text, "note")

    def findings(self, sample: Sample, place: int) -> Iterator[Finding]:
        """At most one finding of each kind a person."""
        judged_N = np.flatnonzero(is_labelled(sample.people))
        keypoints_NK3 = sample.people.keypoints_NK3[judged_N]
        odd: dict[int, list[limbs.OddLimb]] = {}
        for limb in limbs.odd_limbs(keypoints_NK3, self._skeleton, self._proportions):
            odd.setdefault(limb.person, []).append(limb)
        for person, found in odd.items():
            guilty, text = self._limbs(found)
            yield Finding("impossible-limb", sample.id, int(judged_N[person]), guilty, text, "warning", place)
        for swap in sides.find_swaps(keypoints_NK3, self._sides):
            guilty, text = self._swap(swap)
            yield Finding("left-right-swap", sample.id, int(judged_N[swap.person]), guilty, text, "warning", place)

    def _limbs(self, found: list[limbs.OddLimb]) -> tuple[tuple[int, ...], str]:
        names, edges = self._skeleton.names, [self._skeleton.edges[limb.edge] for limb in found]
        told = [
            f"{names[first]} to {names[second]} "
            + (f"{limb.times:.1f} times as long as expected" if limb.times else "of no length")
            for limb, (first, second) in zip(found, edges, strict=True)
        ]
        shared = set(edges[0]).intersection(*edges[1:])  # where several limbs meet, that keypoint is the wrong one
        guilty = shared if len(edges) > 1 and shared else {index for edge in edges for index in edge}
        return tuple(sorted(guilty)), ", ".join(told)

    def _swap(self, swap: sides.Swap) -> tuple[tuple[int, ...], str]:
        pairs = [self._skeleton.flip_pairs[index] for index in swap.pairs]
        told = ", ".join("/".join(self._skeleton.names[index] for index in pair) for pair in pairs)
        if len(pairs) == len(self._skeleton.flip_pairs):
            told = "all pairs"
        guilty = tuple(sorted(index for pair in pairs for index in pair))
        return guilty, f"{told} fit better exchanged, score {swap.score:.1f} over {sides.THRESHOLD:g}"


class _Counter:
    """Adds up steps for a listener of totals."""

    def __init__(self, progress: Callable[[int], None] | None) -> None:
        self._progress, self._done = progress, 0

    def __call__(self, steps: int) -> None:
        self._done += steps
        if self._progress:
            self._progress(self._done)
