"""The OKS sigmas that a skeleton brings, or what stands in for them, said aloud."""

from __future__ import annotations

import warnings

import numpy as np

from raypose.evaluate.records import Float64Array
from raypose.structures import Skeleton


def sigmas_of(skeleton: Skeleton) -> tuple[Float64Array, str | None]:
    """Sigmas of each keypoint and, where the skeleton has none, a note about the 1/K that replaces them."""
    if skeleton.sigmas is not None:
        return np.array(skeleton.sigmas), None
    note = missing_sigmas(skeleton)
    assert note is not None
    warnings.warn(note, stacklevel=3)
    return np.full(skeleton.keypoints, 1.0 / skeleton.keypoints), note


def missing_sigmas(skeleton: Skeleton) -> str | None:
    """What to say of a skeleton without sigmas."""
    if skeleton.sigmas is not None:
        return None
    return (
        f"skeleton of {skeleton.keypoints} keypoints has no OKS sigmas; used 1/{skeleton.keypoints} for each."
        " OKS and AP then compare only with runs that did the same; state sigmas in dataset.yaml or val.sigmas"
    )
