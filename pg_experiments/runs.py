"""Many configs -> one structure and, for every number, a tensor over the runs; and the parts that they describe."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from pg_experiments.algorithm_config import AlgorithmConfig
from pg_experiments.algorithms.interface import Algorithm, rollout_steps_of
from pg_experiments.baselines.batch_mean import BatchMean
from pg_experiments.baselines.interface import Baseline, ValueFunction
from pg_experiments.baselines.shared_value import SharedValue
from pg_experiments.config import OPTION_OF, Config, evaluation_seed, walk
from pg_experiments.env_config import EnvConfig
from pg_experiments.envs.backends import not_native
from pg_experiments.envs.checks import innermost
from pg_experiments.envs.interface import Env, EnvSpec
from pg_experiments.envs.time_limit import limited
from pg_experiments.errors import ConfigError, UserError, first_line, nearest
from pg_experiments.locate import locate
from pg_experiments.optimizer_settings import OptimizerSettings
from pg_experiments.policies.choice import as_arguments
from pg_experiments.policies.fitting import check_policy_fits
from pg_experiments.policies.interface import Policy
from pg_experiments.randomness import check_streams
from pg_experiments.schedules import KL_ADAPTIVE
from pg_experiments.wrapper_config import read_wrappers
from pg_experiments.wrappers.normalize_observation import NormalizedPolicy
from pg_experiments.wrappers.rewards import RewardWrapper
from pg_experiments.wrappers.wrapping import acting_policy, reward_wrappers, spec_for_policy, wrapped

DTYPES = {"float32": torch.float32, "float64": torch.float64}
KINDS: dict[str, tuple[type, ...]] = {
    "env": (Env,),
    "policy": (Policy,),
    "baseline": (Baseline, ValueFunction),
    "algorithm": (Algorithm,),
}
NOT_CHECKED = ("logging.", "sweep.")  # keys that change nothing about the runs themselves


@dataclass(frozen=True)
class Runs:
    """A batch of runs: what they share, and what each has for itself.

    Attributes:
        structure: a config whose per-run numbers are those of the first run, and are not to be read.
        numbers: value of every per-run number by dotted key, float64 `[runs]`; None (no limit) is infinite.
    """

    structure: Config
    numbers: Mapping[str, Tensor]

    def select(self, rows: Tensor) -> "Runs":
        """The batch with the given runs only."""
        return Runs(self.structure, {key: number[rows] for key, number in self.numbers.items()})


def structure_of(config: Config) -> dict[str, Any]:
    """Everything of a config that all runs of a batch must share, by dotted key."""
    return {
        key: value
        for key, value, metadata in walk(config)
        if not metadata.get("per_run") and not key.startswith(NOT_CHECKED)
    }


def stack(configs: Sequence[Config]) -> Runs:
    """Put configs of equal structure into one batch.

    Raises:
        UserError: names the first structural key that differs, and its values.
    """
    first = structure_of(configs[0])
    for run, config in enumerate(configs):
        other = structure_of(config)
        for key in [*first, *other]:
            if first.get(key) != other.get(key):
                raise UserError(
                    f"{key}: runs can share one program only if they differ in per-run numbers; "
                    f"it is {first.get(key)} in run 0 and {other.get(key)} in run {run}"
                )
    values: dict[str, list[float]] = {}
    for config in configs:
        check_streams(config.seed, evaluation_seed(config))
        for key, value, metadata in walk(config):
            if metadata.get("per_run"):
                values.setdefault(key, []).append(float("inf") if value is None else float(value))
    return Runs(configs[0], {key: torch.tensor(value, dtype=torch.float64) for key, value in values.items()})


@dataclass(frozen=True)
class Parts:
    """The parts of a batch of runs, made from its config. They hold numbers, no state.

    Attributes:
        policy: that acts.
        policy_spec: what the policy that learns was made for.
        rewards: how the rewards are changed before anything is learned from them.
    """

    env: Env
    policy: Policy
    baseline: Baseline | ValueFunction
    algorithm: Algorithm
    optimizer: OptimizerSettings
    policy_spec: EnvSpec
    rewards: Sequence[RewardWrapper] = ()

    @property
    def trained_policy(self) -> Policy:
        """The policy that learns: without the normalisation of observations around it."""
        return self.policy.inner if isinstance(self.policy, NormalizedPolicy) else self.policy


def build(runs: Runs, env: Env | None = None) -> Parts:
    """Make every part.

    Args:
        runs: the batch.
        env: one that is there already, to be used instead of a new one; then nothing is checked any more.

    Raises:
        UserError: when a part does not exist, does not take its keys or does not fit the environment.
    """
    config = runs.structure
    own = [field.name for field in fields(EnvConfig)]
    items, check = _items(config.env), env is None
    wrappers = read_wrappers(items["wrappers"])
    if env is None:
        env = not_native(items) or make("env", config.env, runs.numbers, leave_out=own)
        env = around(env, config)
        if try_out := getattr(innermost(env), "try_out", None):  # one that others have written
            try_out()
    spec = spec_for_policy(env.spec, wrappers)
    if check:
        check_policy_fits(config.policy, spec)
    policy = make("policy", config.policy, runs.numbers, spec=spec)
    optimizer = make_optimizer("optimizer", config.optimizer, runs.numbers, check)
    own_parts = {"policy": policy, "policy_optimizer": optimizer}
    baseline = make("baseline", config.baseline, runs.numbers, check, spec=env.spec, **own_parts)
    if isinstance(baseline, BatchMean) and num_envs(config) == 1:
        raise ConfigError(
            "baseline", "batch_mean", "needs env.num_envs of at least 2: the mean of one return is itself"
        )
    algorithm = make(
        "algorithm",
        config.algorithm,
        runs.numbers,
        leave_out=[field.name for field in fields(AlgorithmConfig)],
        gamma=runs.numbers["env.gamma"],
        reward_scale=runs.numbers["env.reward_scale"],
    )
    check_baseline_fits(config, algorithm, baseline)
    check_minibatches_fit(config, algorithm, baseline)
    if check and hasattr(algorithm, "check"):
        algorithm.check(policy, optimizer)
    return Parts(
        env=env,
        policy=acting_policy(policy, spec, wrappers),
        baseline=baseline,
        algorithm=algorithm,
        optimizer=optimizer,
        policy_spec=spec,
        rewards=reward_wrappers(wrappers),
    )


def around(env: Env, config: Config) -> Env:
    """An environment with the time limit of its steps and the wrappers of a config."""
    items = _items(config.env)
    return wrapped(limited(env, items["step_seconds"]), read_wrappers(items["wrappers"]))


def make(
    key: str,
    config: Any,
    numbers: Mapping[str, Tensor],
    check: bool = True,
    leave_out: Sequence[str] = (),
    **given: Any,
) -> Any:
    """Call the class that `_target_` names with the config's other fields, and with what it takes of `given`.

    Args:
        key: the config's dotted name.
        config: a schema's dataclass, or a dict from a user's own YAML file.
        numbers: of the batch; a per-run field is handed over as a tensor `[runs]`.
        check: try the optimizer out.
        leave_out: fields that are not the part's own.
    """
    items = _items(config)
    target = locate(f"{key}._target_", items["_target_"])
    of_network, arguments = as_arguments(key, config, given.get("spec"))
    for name, value in items.items():
        if name == "_target_" or name in leave_out or name in of_network:
            continue
        if name == "optimizer":
            if not is_dataclass(value) and not isinstance(value, dict):
                choice = f"optimizer@{key}.optimizer={value}"
                raise ConfigError(f"{key}.optimizer", value, f"is a group of its own; choose it with {choice}")
            value = make_optimizer(f"{key}.{name}", value, numbers, check)
        arguments[name] = numbers.get(f"{key}.{name}", value)
    try:
        taken = inspect.signature(target).parameters
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}._target_", items["_target_"], "is no class written in Python") from error
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    arguments |= {name: value for name, value in given.items() if name in taken or free}
    for name in arguments:
        if name not in taken and not free:
            raise ConfigError(f"{key}.{name}", None, f"{target.__name__} takes no {name}.{nearest(name, taken)}")
    try:
        part = target(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(key, None, f"{target.__name__}: {first_line(error)}") from error
    if not isinstance(part, KINDS[key]):
        raise ConfigError(f"{key}._target_", items["_target_"], f"makes no {key}; see {KINDS[key][0].__module__}")
    return part


def make_optimizer(key: str, config: Any, numbers: Mapping[str, Tensor], check: bool = True) -> OptimizerSettings:
    """The settings of an optimizer config, tried out if asked for."""
    items = _items(config)
    target = locate(f"{key}._target_", items.pop("_target_", "???"))
    names = ("lr", "schedule", "target_kl", "max_gradient_norm", "accumulate_gradients", "kwargs")
    own = {name: items.pop(name) for name in names}
    if own["schedule"] == KL_ADAPTIVE and key != "optimizer":
        wanted = "must be constant, linear or cosine: only the policy's optimizer has a policy whose change is measured"
        raise ConfigError(f"{key}.schedule", KL_ADAPTIVE, wanted)
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in items.items()}
    settings = OptimizerSettings(
        torch_class=target,
        arguments=arguments | own["kwargs"],
        lr=numbers[f"{key}.lr"],
        schedule=own["schedule"],
        max_gradient_norm=numbers[f"{key}.max_gradient_norm"],
        target_kl=numbers[f"{key}.target_kl"],
        accumulate=own["accumulate_gradients"],
    )
    if check:
        settings.check(key)
    return settings


def check_baseline_fits(config: Config, algorithm: Algorithm, baseline: Baseline | ValueFunction) -> None:
    """Raise a `ConfigError` when a cut rollout cannot be continued, or a shared network would not be trained."""
    name, own = name_of_option(config.baseline), name_of_option(config.algorithm)
    shares = getattr(algorithm, "shares_network", False)
    if isinstance(baseline, SharedValue) and not shares:
        reason = f"learns in one step with the policy, and {own} has no such step; fitting: value_network here, or "
        raise ConfigError("baseline", name, f"{reason}algorithm=actor_critic or ppo")
    if rollout_steps_of(algorithm) is None:
        if not isinstance(baseline, Baseline):
            raise ConfigError("baseline", name, f"learns from fixed rollouts alone, and {own} plays whole episodes")
    elif not isinstance(baseline, ValueFunction):
        needs = f"{own} continues a rollout that is cut by the value of the state"
        fitting = "value_network or shared_value" if shares else "value_network"
        raise ConfigError("baseline", name, f"knows no value of a state, and {needs}; fitting: {fitting}")


def check_minibatches_fit(config: Config, algorithm: Algorithm, baseline: Baseline | ValueFunction) -> None:
    """Raise a `ConfigError` when there are more minibatches than samples, or updates that minibatches do not have."""
    minibatches: int | None = getattr(algorithm, "minibatches", None)
    if minibatches is None:
        return
    samples = (rollout_steps_of(algorithm) or 0) * num_envs(config)
    if minibatches > samples:
        reason = (
            f"an iteration has {samples} samples (algorithm.rollout_steps x env.num_envs), at most one minibatch each"
        )
        raise ConfigError("algorithm.minibatches", minibatches, reason)
    updates: int | None = getattr(baseline, "updates_per_iteration", None)
    if updates != 1:
        reason = "has to be 1: the value network learns with every minibatch of algorithm.epochs"
        raise ConfigError("baseline.updates_per_iteration", updates, reason)


def name_of_option(config: Any) -> str:
    """What a part is called on the command line; of a user's own, its class."""
    target = str(_items(config).get("_target_", ""))
    return OPTION_OF.get(target, target)


def num_envs(config: Config) -> int:
    """Copies of the environment per run."""
    return int(_items(config.env)["num_envs"])


def _items(config: Any) -> dict[str, Any]:
    if is_dataclass(config):
        return {field.name: getattr(config, field.name) for field in fields(config)}
    return dict(config)
