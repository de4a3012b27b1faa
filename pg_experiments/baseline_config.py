"""The schemas of the baselines. They import no torch, as everything that composing a config needs."""

from dataclasses import dataclass
from typing import Any

from pg_experiments.network_config import NetworkConfig
from pg_experiments.schema_fields import MOST_UNITS, checked, per_run


@dataclass(frozen=True)
class NoneConfig:
    _target_: str = "pg_experiments.baselines.none.NoBaseline"


@dataclass(frozen=True)
class BatchMeanConfig:
    _target_: str = "pg_experiments.baselines.batch_mean.BatchMean"


@dataclass(frozen=True)
class LeaveOneOutConfig:
    _target_: str = "pg_experiments.baselines.leave_one_out.LeaveOneOut"


@dataclass(frozen=True)
class RunningMeanConfig:
    _target_: str = "pg_experiments.baselines.running_mean.RunningMean"
    decay: float = per_run(0.9, at_least=0, at_most=1)


def without_effect(baseline: Any, algorithm: Any) -> str:
    """A line about a baseline that changes nothing beside the algorithm's settings; empty for any other.

    Args:
        baseline, algorithm: of one config.
    """
    if not (isinstance(baseline, RunningMeanConfig) and getattr(algorithm, "normalize_advantage", False)):
        return ""
    return (
        "note: baseline=running_mean is one number for all samples, which algorithm.normalize_advantage=true takes "
        "away anyway; it is of effect with algorithm.normalize_advantage=false"
    )


@dataclass(frozen=True)
class TimeDependentConfig:
    _target_: str = "pg_experiments.baselines.time_dependent.TimeDependent"
    decay: float = per_run(0.9, at_least=0, at_most=1)


@dataclass(frozen=True)
class LinearFeaturesConfig:
    _target_: str = "pg_experiments.baselines.linear_features.LinearFeatures"
    ridge: float = per_run(1e-5, above=0)


@dataclass(frozen=True)
class OptimalConstantConfig:
    _target_: str = "pg_experiments.baselines.optimal_constant.OptimalConstant"
    decay: float = per_run(0.9, at_least=0, at_most=1)
    per_coordinate: bool = False


@dataclass(frozen=True)
class ValueNetworkConfig(NetworkConfig):
    _target_: str = "pg_experiments.baselines.value_network.ValueNetwork"
    updates_per_iteration: int = checked(3, at_least=1, at_most=MOST_UNITS)
    optimizer: Any = "???"


@dataclass(frozen=True)
class SharedValueConfig:
    _target_: str = "pg_experiments.baselines.shared_value.SharedValue"
    coefficient: float = per_run(0.5, at_least=0)
