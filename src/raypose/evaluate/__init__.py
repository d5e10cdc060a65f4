"""Metrics of a validation, validators beside them, and the pages that show both."""

from raypose.evaluate.figure import Figure
from raypose.evaluate.judge import BY_COCO, Judge
from raypose.evaluate.run import Evaluation, evaluate
from raypose.evaluate.validators import Context, Findings, Validator

__all__ = ["BY_COCO", "Context", "Evaluation", "Figure", "Findings", "Judge", "Validator", "evaluate"]
