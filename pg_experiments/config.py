"""The schema of every config: keys, types, defaults, allowed values, and which numbers may differ between runs.

A field made with `per_run` is a *number*: runs of one batch may each have their own. Every other field is *structure*,
and runs share a batch only when their structure is equal. This module imports no torch, so that `--help` is fast.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any

from pg_experiments.algorithm_config import (
    ActorCriticConfig,
    AlgorithmConfig,
    NPGConfig,
    PPOConfig,
    ReinforceConfig,
    TRPOConfig,
)
from pg_experiments.baseline_config import (
    BatchMeanConfig,
    LeaveOneOutConfig,
    LinearFeaturesConfig,
    NoneConfig,
    OptimalConstantConfig,
    RunningMeanConfig,
    SharedValueConfig,
    TimeDependentConfig,
    ValueNetworkConfig,
)
from pg_experiments.env_config import (
    GYMNASIUM_TASKS,
    AcrobotConfig,
    BioreactorConfig,
    CartPoleConfig,
    CliffWalkingConfig,
    EnvConfig,
    FrozenLakeConfig,
    GymnasiumConfig,
    MountainCarConfig,
    MountainCarContinuousConfig,
    NavigationConfig,
    NavigationDiscreteConfig,
    PendulumConfig,
)
from pg_experiments.errors import ConfigError
from pg_experiments.policy_config import (
    AutoConfig,
    BernoulliConfig,
    BetaConfig,
    GaussianConfig,
    LinearGaussianConfig,
    LinearSoftmaxConfig,
    MixedConfig,
    MultiCategoricalConfig,
    SoftmaxConfig,
    SquashedGaussianConfig,
    TabularSoftmaxConfig,
    VonMisesConfig,
)
from pg_experiments.schema_fields import SCHEDULES, check_value, checked, per_run
from pg_experiments.wrapper_config import read_wrappers

MOST_EPISODES = 1_000_000  # of an evaluation: they are played at once


# --- optimizer --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OptimizerConfig:
    """Any element-wise class of `torch.optim`; `kwargs` and all keys of a subclass go to its constructor."""

    _target_: str = "???"
    lr: float = per_run(5e-3, at_least=0)
    schedule: str = checked("linear", one_of=(*SCHEDULES, "kl_adaptive"))
    target_kl: float = per_run(0.01, above=0)
    max_gradient_norm: float | None = per_run(None, above=0)
    accumulate_gradients: int = checked(1, at_least=1, at_most=1_000_000)
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AdamConfig(OptimizerConfig):
    _target_: str = "torch.optim.Adam"
    betas: list[float] = checked([0.9, 0.999], at_least=0, below=1, items=(2, 2))
    eps: float = checked(1e-8, at_least=0)
    weight_decay: float = checked(0.0, at_least=0)


@dataclass(frozen=True)
class AdamWConfig(AdamConfig):
    _target_: str = "torch.optim.AdamW"
    weight_decay: float = checked(0.01, at_least=0)


@dataclass(frozen=True)
class RMSpropConfig(OptimizerConfig):
    _target_: str = "torch.optim.RMSprop"
    alpha: float = checked(0.99, at_least=0, at_most=1)
    eps: float = checked(1e-8, at_least=0)
    momentum: float = checked(0.0, at_least=0)
    weight_decay: float = checked(0.0, at_least=0)
    centered: bool = False


@dataclass(frozen=True)
class SGDConfig(OptimizerConfig):
    _target_: str = "torch.optim.SGD"
    momentum: float = checked(0.0, at_least=0)
    dampening: float = checked(0.0, at_least=0)
    nesterov: bool = False
    weight_decay: float = checked(0.0, at_least=0)


# --- the whole --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvaluationConfig:
    every: int = checked(0, at_least=0)
    episodes: int = checked(100, at_least=1, at_most=MOST_EPISODES)
    seed: int | None = checked(None, at_least=0, at_most=2**63 - 1)
    video: bool = False


@dataclass(frozen=True)
class CheckpointConfig:
    every: int = checked(0, at_least=0)
    seconds: float = checked(60.0, at_least=0)
    keep: int = checked(1, at_least=1)
    resume: bool = False


@dataclass(frozen=True)
class LoggingConfig:
    every: int = checked(1, at_least=1)
    tensorboard: bool = True
    progress: str = checked("auto", one_of=("auto", "rich", "plain", "none"))


@dataclass(frozen=True)
class SweepConfig:
    """What `-m` reads; it changes nothing about a run."""

    name: str | None = None
    preview: bool = False
    tuning_seeds: list[int] = checked([1000, 1001, 1002], at_least=0, at_most=2**63 - 1, items=(1, 1000))


@dataclass(frozen=True)
class Config:
    """One run, complete. `seed`, `total_env_steps` and every field marked `per_run` below are numbers."""

    policy: Any = "???"
    env: Any = "???"
    optimizer: Any = "???"
    baseline: Any = "???"
    algorithm: Any = "???"
    seed: int = per_run(0, at_least=0, at_most=2**63 - 1)
    total_env_steps: int = per_run(1_000_000, at_least=1)
    device: str = checked("cpu", one_of=("cpu", "cuda", "cuda:N"), pattern=r"cpu|cuda(:(0|[1-9][0-9]?))?")
    dtype: str = checked("float32", one_of=("float32", "float64"))
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)


GROUPS = ("policy", "env", "optimizer", "baseline", "algorithm")

SCHEMAS: dict[str, dict[str, type]] = {
    "policy": {
        "softmax": SoftmaxConfig,
        "tabular_softmax": TabularSoftmaxConfig,
        "linear_softmax": LinearSoftmaxConfig,
        "gaussian": GaussianConfig,
        "linear_gaussian": LinearGaussianConfig,
        "squashed_gaussian": SquashedGaussianConfig,
        "beta": BetaConfig,
        "von_mises": VonMisesConfig,
        "multi_categorical": MultiCategoricalConfig,
        "bernoulli": BernoulliConfig,
        "mixed": MixedConfig,
        "auto": AutoConfig,
    },
    "env": {
        "cartpole": CartPoleConfig,
        "pendulum": PendulumConfig,
        "acrobot": AcrobotConfig,
        "mountain_car": MountainCarConfig,
        "mountain_car_continuous": MountainCarContinuousConfig,
        "bioreactor": BioreactorConfig,
        "frozen_lake": FrozenLakeConfig,
        "cliff_walking": CliffWalkingConfig,
        "navigation": NavigationConfig,
        "navigation_discrete": NavigationDiscreteConfig,
        "gymnasium": GymnasiumConfig,
        **dict.fromkeys(GYMNASIUM_TASKS, GymnasiumConfig),
    },
    "optimizer": {
        "adam": AdamConfig,
        "adamw": AdamWConfig,
        "rmsprop": RMSpropConfig,
        "sgd": SGDConfig,
        "torch": OptimizerConfig,
    },
    "baseline": {
        "none": NoneConfig,
        "batch_mean": BatchMeanConfig,
        "leave_one_out": LeaveOneOutConfig,
        "running_mean": RunningMeanConfig,
        "time_dependent": TimeDependentConfig,
        "linear_features": LinearFeaturesConfig,
        "optimal_constant": OptimalConstantConfig,
        "value_network": ValueNetworkConfig,
        "shared_value": SharedValueConfig,
    },
    "algorithm": {
        "reinforce": ReinforceConfig,
        "actor_critic": ActorCriticConfig,
        "ppo": PPOConfig,
        "npg": NPGConfig,
        "trpo": TRPOConfig,
    },
}
OPTION_OF = {  # what a class is called on the command line, the first of several names; a task has its own name
    schema._target_: name  # type: ignore[attr-defined]
    for group in reversed(SCHEMAS)
    for name, schema in reversed(SCHEMAS[group].items())
    if group != "env"
}


def option_of(kind: type) -> str:
    """What a class is called on the command line; of a user's own, its name."""
    module = "torch.optim" if kind.__module__.startswith("torch.optim.") else kind.__module__
    return OPTION_OF.get(f"{module}.{kind.__name__}", kind.__name__)


COMMON_KEYS = {
    "env": EnvConfig,
    "optimizer": OptimizerConfig,
    "algorithm": AlgorithmConfig,
}  # what a user's own part of the group has as well


def walk(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Every leaf of a config as (dotted key, value, the field's metadata); a user's own part is a dict."""
    if is_dataclass(config):
        items = [(f.name, getattr(config, f.name), dict(f.metadata)) for f in fields(config)]
    else:
        schema = COMMON_KEYS.get(prefix.rstrip(".").rpartition(".")[2])
        known = {f.name: dict(f.metadata) for f in fields(schema)} if schema else {}
        items = [(key, value, known.get(key, {})) for key, value in config.items()]
    for name, value, metadata in items:
        if is_dataclass(value) or (isinstance(value, dict) and "_target_" in value):
            yield from walk(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, metadata


FREE_KEYS = ("logging.", "checkpoint.", "sweep.", "evaluation.video", "env.step_seconds")  # change no number of a run


def differences(before: Config, now: Config) -> list[str]:
    """The keys in which two configs differ, with both values, apart from `FREE_KEYS`."""
    there, here = ({key: value for key, value, _ in walk(config)} for config in (before, now))
    return [
        f"{key} is {there.get(key, 'not set')} there and {here.get(key, 'not set')} now"
        for key in dict.fromkeys([*there, *here])
        if there.get(key) != here.get(key) and not key.startswith(FREE_KEYS)
    ]


def evaluation_seed(config: Config) -> int:
    """Of the evaluation's episodes: `evaluation.seed`, or the run's own seed; see `randomness.py`."""
    return config.seed if config.evaluation.seed is None else config.evaluation.seed


def resuming(config: Config) -> Config:
    """The same run, continued where its folder says it was."""
    return replace(config, checkpoint=replace(config.checkpoint, resume=True))


def check_values(config: Config) -> None:
    """Raise a `ConfigError` for the first value outside its allowed range."""
    first = ("env.", "algorithm.")  # whose defaults others take over
    leaves = sorted(walk(config), key=lambda leaf: not leaf[0].startswith(first))
    for key, value, metadata in leaves:
        check_value(key, value, metadata)
        if key == "env.wrappers":
            read_wrappers(value)
    if config.evaluation.video and not config.logging.tensorboard:
        raise ConfigError("evaluation.video", True, "is written for TensorBoard; it needs logging.tensorboard=true")


def check_seed(seed: int) -> None:
    """`check_values` of a config of which all but the seed is checked."""
    check_value("seed", seed, next(dict(item.metadata) for item in fields(Config) if item.name == "seed"))


def config_sha256(config: Config) -> str:
    """SHA-256 over what decides a run's numbers: the config without `FREE_KEYS`, as JSON."""
    items = {key: value for key, value in asdict(config).items() if key not in ("logging", "checkpoint", "sweep")}
    items["env"] = {key: value for key, value in items["env"].items() if key != "step_seconds"}
    del items["evaluation"]["video"]
    if items["evaluation"]["seed"] is None:  # a run from before there was this key is still the same run
        del items["evaluation"]["seed"]
    return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()
