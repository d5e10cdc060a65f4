"""raypose: distributed YOLO pose training on Ray.

import raypose

summary = raypose.train("configs/demo.yaml")
model = raypose.load(summary["folder"])
poses = model.predict([image])  # RGB, height x width x 3
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raypose.api import compare, export, find_learning_rate, load, predict, train, validate

__all__ = ["compare", "export", "find_learning_rate", "load", "predict", "train", "validate"]


def __getattr__(name: str) -> Any:
    """Import torch and Ray when something is used, not when `raypose` is named."""
    if name not in __all__:
        raise AttributeError(f"module 'raypose' has no attribute {name!r}")
    from raypose import api

    return getattr(api, name)
