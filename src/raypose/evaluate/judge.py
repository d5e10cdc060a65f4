"""How a run is measured: its protocol, its sigmas and its validators, made once and used at every validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from raypose.config import ValConfig
from raypose.errors import ConfigError
from raypose.evaluate.pose_metrics import Protocol
from raypose.evaluate.run import Evaluation, evaluate
from raypose.evaluate.validators import NamedValidator, find_validators, run_validators
from raypose.structures import ImageResult, Skeleton

_NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Judge:
    """Measures results. Without arguments it follows COCO and the skeleton's own sigmas, and has no validators."""

    protocol: Protocol = "coco"
    sigmas: tuple[float, ...] | None = None
    validators: tuple[NamedValidator, ...] = ()

    @classmethod
    def of(cls, config: ValConfig) -> Judge:
        """What a configuration asks for; ConfigError names every validator that cannot be had."""
        return cls(config.protocol, config.sigmas, find_validators(config.validators))

    def skeleton(self, skeleton: Skeleton) -> Skeleton:
        """The skeleton with the sigmas that count here; ConfigError where their number does not fit."""
        if self.sigmas is None:
            return skeleton
        if len(self.sigmas) != skeleton.keypoints:
            raise ConfigError(
                f"val.sigmas: {len(self.sigmas)} sigmas for a skeleton of {skeleton.keypoints} keypoints; give one each"
            )
        return replace(skeleton, sigmas=self.sigmas)

    def measure(
        self,
        results: Sequence[ImageResult],
        skeleton: Skeleton,
        class_names: Sequence[str],
        *,
        earlier: Mapping[str, float] = _NOTHING,
    ) -> Evaluation:
        """All numbers of a validation, those of validators included. `earlier` are the metrics of the best so far."""
        skeleton = self.skeleton(skeleton)
        evaluation = evaluate(results, skeleton, class_names, protocol=self.protocol)
        own = run_validators(self.validators, results, skeleton, class_names, earlier)
        return replace(evaluation, metrics={**evaluation.metrics, **own.metrics}, figures=own.figures)


BY_COCO = Judge()
"""COCO's protocol, the skeleton's own sigmas, no validators."""
