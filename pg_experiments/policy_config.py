"""The schemas of the policies. Imports no torch; see `config.py`."""

from dataclasses import dataclass

from pg_experiments.network_config import NetworkConfig
from pg_experiments.schema_fields import MOST_LAYERS, MOST_UNITS, checked, per_run

MOST_CONCENTRATION = 1_000_000.0  # at the start: more is a point
PART_NAMES = ("softmax", "gaussian", "squashed_gaussian", "beta", "von_mises", "multi_categorical", "bernoulli")


@dataclass(frozen=True)
class SoftmaxConfig(NetworkConfig):
    _target_: str = "pg_experiments.policies.softmax.Softmax"


@dataclass(frozen=True)
class TabularSoftmaxConfig:
    _target_: str = "pg_experiments.policies.softmax.TabularSoftmax"


@dataclass(frozen=True)
class GaussianConfig(NetworkConfig):
    _target_: str = "pg_experiments.policies.gaussian.Gaussian"
    state_dependent_std: bool = False
    fixed_std: bool = False
    initial_std: float = per_run(1.0, above=0)


@dataclass(frozen=True)
class SquashedGaussianConfig(GaussianConfig):
    _target_: str = "pg_experiments.policies.squashed_gaussian.SquashedGaussian"


@dataclass(frozen=True)
class BetaConfig(NetworkConfig):
    _target_: str = "pg_experiments.policies.beta.BetaPolicy"
    initial_shape: float = per_run(1.5, above=1, at_most=MOST_CONCENTRATION)


@dataclass(frozen=True)
class VonMisesConfig(NetworkConfig):
    _target_: str = "pg_experiments.policies.von_mises.VonMisesPolicy"
    initial_concentration: float = per_run(0.5, above=0, at_most=MOST_CONCENTRATION)


@dataclass(frozen=True)
class LinearSoftmaxConfig(SoftmaxConfig):
    hidden_sizes: list[int] = checked([], at_least=1, at_most=MOST_UNITS, items=(0, MOST_LAYERS))


@dataclass(frozen=True)
class LinearGaussianConfig(GaussianConfig):
    hidden_sizes: list[int] = checked([], at_least=1, at_most=MOST_UNITS, items=(0, MOST_LAYERS))


@dataclass(frozen=True)
class MultiCategoricalConfig(SoftmaxConfig):
    _target_: str = "pg_experiments.policies.multi_categorical.MultiCategoricalPolicy"


@dataclass(frozen=True)
class BernoulliConfig(SoftmaxConfig):
    _target_: str = "pg_experiments.policies.bernoulli.BernoulliPolicy"


@dataclass(frozen=True)
class MixedConfig(NetworkConfig):
    _target_: str = "pg_experiments.policies.mixed.Mixed"
    parts: list[str] = checked([], one_of=PART_NAMES, items=(0, 1000))
    initial_std: float = per_run(1.0, above=0)
    initial_shape: float = per_run(1.5, above=1, at_most=MOST_CONCENTRATION)
    initial_concentration: float = per_run(0.5, above=0, at_most=MOST_CONCENTRATION)


@dataclass(frozen=True)
class AutoConfig(NetworkConfig):
    _target_: str = "pg_experiments.policies.auto.auto"
    initial_std: float = per_run(1.0, above=0)
