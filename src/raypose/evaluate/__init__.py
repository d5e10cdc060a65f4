"""Metrics of a validation and the pages that show them."""

from raypose.evaluate.run import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
