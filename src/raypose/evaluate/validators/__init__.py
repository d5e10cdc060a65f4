"""Measures of one's own beside the built-in ones: the protocol, how they are found, and two to start from."""

from raypose.evaluate.validators.find import find_validators
from raypose.evaluate.validators.protocol import Context, Findings, NamedValidator, Validator, run_validators

__all__ = ["Context", "Findings", "NamedValidator", "Validator", "find_validators", "run_validators"]
