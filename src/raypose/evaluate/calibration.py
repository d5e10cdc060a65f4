"""Calibration: of the predictions with a confidence of about 0.8, are eight in ten right?

After Guo and others, "On Calibration of Modern Neural Networks", ICML 2017, with bins of equal width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raypose.evaluate.records import Float64Array
from raypose.structures import BoolArray, IntArray

BINS = 20
KEYPOINT_THRESHOLD = 0.10
"""Fraction of the longer side of the box within which a keypoint is right."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Confidence against the share that is right, in bins of equal width from 0 to 1; NaN where a bin is empty.

    `error` is the expected calibration error: the mean distance of the two over all predictions, NaN without any.
    """

    confidence_B: Float64Array
    right_B: Float64Array
    count_B: IntArray
    error: float


def calibrate(confidence: Float64Array, right: BoolArray) -> Calibration:
    """Compare the confidence of each prediction with whether it was right."""
    bin_of = np.minimum((np.clip(confidence, 0.0, 1.0) * BINS).astype(np.int64), BINS - 1)
    count_B = np.bincount(bin_of, minlength=BINS)
    confidence_B, right_B = (
        np.divide(
            np.bincount(bin_of, weights=values, minlength=BINS), count_B, out=np.full(BINS, np.nan), where=count_B > 0
        )
        for values in (np.clip(confidence, 0.0, 1.0), right.astype(np.float64))
    )
    gap_B = np.where(count_B > 0, np.abs(confidence_B - right_B), 0.0)
    error = float((gap_B * count_B).sum() / len(confidence)) if len(confidence) else float("nan")
    return Calibration(confidence_B, right_B, count_B, error)
