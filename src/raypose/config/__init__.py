"""The configuration of a run: one frozen, complete `RunConfig`, read from YAML and dotted overrides."""

from raypose.config.load import dump_config, load_config, parse_config
from raypose.config.schema import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    RunConfig,
    ScalingConfig,
    TelemetryConfig,
    TrainConfig,
    ValConfig,
    ValidatorConfig,
)

__all__ = [
    "AugmentConfig",
    "CheckpointConfig",
    "DataConfig",
    "ModelConfig",
    "RunConfig",
    "ScalingConfig",
    "TelemetryConfig",
    "TrainConfig",
    "ValConfig",
    "ValidatorConfig",
    "dump_config",
    "load_config",
    "parse_config",
]
