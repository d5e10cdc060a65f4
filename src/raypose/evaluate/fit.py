"""Over- and underfitting in words: from the course of a run, and from how it does on images that it trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_OVERFIT_DROP = 0.01
"""AP lost since the best epoch from which a run with falling training loss is called overfitted."""
_LOST = 0.15
"""Share of the training images' AP that validation lacks, from which the model has learned its images by heart."""
_HARDLY = 0.1
"""AP on training images below which a model has not learned enough for anything to carry over."""
_POOR = 0.5
"""AP on training images below which a model that does no worse elsewhere has not learned enough."""


def describe_course(epochs: Sequence[Mapping[str, Any]]) -> str:
    """One sentence about the end of a run, from validation AP and training loss; empty for under 3 epochs."""
    ap = column(epochs, "val/pose_ap")
    measured = [index for index, value in enumerate(ap) if math.isfinite(value)]
    if len(measured) < 3:
        return ""
    best, last = max(measured, key=lambda index: ap[index]), measured[-1]
    loss = [sum(column([row], key)[0] for key in losses_of(epochs)) for row in epochs]
    peak = f"Pose AP was best after epoch {epochs[best]['epoch']:g} ({ap[best]:.3f})"
    if last - best <= len(measured) // 10:
        return f"{peak}, at or near the end: the model was still improving, and more epochs may help."
    if ap[best] - ap[last] > _OVERFIT_DROP and loss[last] < loss[best]:
        return (
            f"{peak} and ended {ap[best] - ap[last]:.3f} lower while the training loss went on falling:"
            " the model overfits. Use the best checkpoint; more data or augmentation may help."
        )
    return f"{peak} and ended at {ap[last]:.3f}: it has levelled off."


def describe_gap(trained: Mapping[str, float], unseen: Mapping[str, float]) -> str:
    """One sentence from the metrics of images that were trained on and of images that were not; empty without AP."""
    known, new = trained.get("pose_ap", math.nan), unseen.get("pose_ap", math.nan)
    if not (math.isfinite(known) and math.isfinite(new)):
        return ""
    both = f"Pose AP is {known:.3f} on training images and {new:.3f} on validation images"
    if known >= _HARDLY and known - new > _LOST * known:
        return f"{both}: {1 - new / known:.0%} of it does not carry over. More data or augmentation may help."
    if known < _POOR:
        return f"{both}: low on both. The model underfits; a larger one, larger images or more epochs may help."
    return f"{both}: what was learned carries over."


def losses_of(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of training losses, in the order in which they come."""
    return list(dict.fromkeys(key for row in epochs for key in row if key.startswith("train/")))


def column(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The values of `key`, NaN where a row lacks it or holds None."""
    values = (row.get(key) for row in rows)
    return [math.nan if value is None else float(value) for value in values]
