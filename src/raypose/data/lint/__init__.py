"""What may be wrong with labels that are well formed: swapped sides, impossible limbs, duplicates, leakage and more."""

from raypose.data.lint.findings import RULES, WHOLE_SET, Finding
from raypose.data.lint.run import lint_set

__all__ = ["RULES", "WHOLE_SET", "Finding", "lint_set"]
