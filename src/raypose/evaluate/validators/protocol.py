"""Validators: measures of one's own beside the built-in ones. docs/validators.md is the guide.

A validator is called once for each validation, with the images one by one and a `Context`; it returns numbers and, if
it likes, figures. Its metrics appear as `<name>.<metric>`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from raypose.errors import RayposeError, ValidatorError
from raypose.evaluate.figure import Figure
from raypose.structures import ImageResult, Skeleton


@dataclass(frozen=True, slots=True)
class Context:
    """What a validator may know besides the images.

    `earlier` are this validator's own metrics at the best checkpoint of the run so far; empty at the first validation
    and outside training.
    """

    skeleton: Skeleton
    class_names: tuple[str, ...]
    earlier: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a validator found: the same metric names every time, NaN where undefined."""

    metrics: Mapping[str, float]
    figures: tuple[Figure, ...] = ()


class Validator(Protocol):
    """Images come in the order of their ids, each once. Any RayposeError it raises ends the run with that line."""

    def __call__(self, results: Iterator[ImageResult], context: Context, /) -> Findings | Mapping[str, float]: ...


@dataclass(frozen=True, slots=True)
class NamedValidator:
    """A validator, and the name that stands before its metrics."""

    name: str
    validator: Callable[[Iterator[ImageResult], Context], Any]

    def run(self, results: Sequence[ImageResult], context: Context) -> Findings:
        """Call it, and check what it returns. `results` are in the order of their ids."""
        try:
            returned = self.validator(iter(results), context)
            findings = returned if isinstance(returned, Findings) else Findings(returned)
            return Findings(
                {f"{self.name}.{key}": self._number(key, value) for key, value in findings.metrics.items()},
                self._figures(findings.figures),
            )
        except RayposeError:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise ValidatorError(
                f"validator {self.name}: {type(error).__name__}: {error}"
                f" ({Path(frame.filename).name}:{frame.lineno}); mend it or leave it out of val.validators"
            ) from error

    def _number(self, key: object, value: object) -> float:
        if not isinstance(key, str) or not key or not isinstance(value, Real):
            raise ValidatorError(
                f"validator {self.name}: returned {key!r}: {value!r}, expected names with a number each"
            )
        return float(value)

    def _figures(self, figures: Sequence[Figure]) -> tuple[Figure, ...]:
        odd = [figure for figure in figures if not isinstance(figure, Figure)]
        if odd:
            raise ValidatorError(
                f"validator {self.name}: a figure is of type {type(odd[0]).__name__}, expected raypose.evaluate.Figure"
            )
        return tuple(figures)


def run_validators(
    validators: Sequence[NamedValidator],
    results: Sequence[ImageResult],
    skeleton: Skeleton,
    class_names: Sequence[str],
    earlier: Mapping[str, float],
) -> Findings:
    """What all of them found together. `earlier` are metrics as a checkpoint holds them, of all validators."""
    ordered = sorted(results, key=lambda result: result.id)
    metrics: dict[str, float] = {}
    figures: list[Figure] = []
    for named in validators:
        prefix = f"{named.name}."
        own = {key.removeprefix(prefix): value for key, value in earlier.items() if key.startswith(prefix)}
        findings = named.run(ordered, Context(skeleton, tuple(class_names), own))
        metrics |= findings.metrics
        figures += findings.figures
    return Findings(metrics, tuple(figures))
