"""What lint can find: the rules, and one finding of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]

WHOLE_SET = -1


@dataclass(frozen=True, slots=True)
class Rule:
    """A title, and what the rule sees in one or two sentences."""

    title: str
    explanation: str


RULES: Mapping[str, Rule] = {
    "skeleton": Rule("Skeleton", "What the skeleton leaves open, and what that costs."),
    "class-balance": Rule("Class balance", "Classes with no labelled person, or a hundred times fewer than another."),
    "duplicate": Rule(
        "Duplicates",
        "Images of the set that look alike: 64-bit perceptual hashes that differ in at most 5 bits, and small"
        " pictures that hardly differ. Both count twice in every figure.",
    ),
    "leakage": Rule(
        "Leakage", "Images that look like one of the other set, by the same measure: what was learnt is tested again."
    ),
    "keypoint-outside-image": Rule("Keypoints outside the image", "Labelled keypoints over 2 px outside the image."),
    "keypoint-outside-box": Rule(
        "Keypoints outside the box",
        "Labelled keypoints further outside their person's box than a fifth of its longer side.",
    ),
    "box-without-keypoints": Rule(
        "Boxes without keypoints",
        "People who are no crowd and as large as half of the labelled ones, without a single labelled keypoint:"
        " training and evaluation ignore them.",
    ),
    "tiny-box": Rule(
        "Tiny boxes", "Labelled people whose box is less than 8 px across, the finest grid of the detector."
    ),
    "impossible-limb": Rule(
        "Impossible limbs",
        "Limbs over twice as long as the person's other limbs make likely, and further from it than 4 times the set's"
        " own spread; and limbs of no length. Foreshortening makes limbs short, never long.",
    ),
    "left-right-swap": Rule(
        "Left and right swapped",
        "Pairs that would fit the rest of the body much better if left and right changed places, as the set's other"
        " people show. Crossed limbs look the same now and then: look before you correct.",
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something worth a look. `place` is the sample's place in the set, `twin` that of the image it looks like.

    `keypoints` are the guilty ones' indices. WHOLE_SET is the place of what concerns no single sample; its id is "".
    The twin of a leak is in the other set.
    """

    rule: str
    sample_id: str
    person: int | None
    keypoints: tuple[int, ...]
    message: str
    severity: Severity
    place: int = WHOLE_SET
    twin: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain builtins for JSON."""
        return asdict(self)
