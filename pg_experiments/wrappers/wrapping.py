"""From the list `env.wrappers` to what it makes of an environment, and of the policy that acts in it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pg_experiments.envs.interface import Env, EnvSpec
from pg_experiments.errors import ConfigError, reason_of
from pg_experiments.locate import locate
from pg_experiments.policies.interface import Policy
from pg_experiments.wrapper_config import (
    KEY,
    NormalizeObservationConfig,
    OwnWrapperConfig,
    RepeatActionConfig,
    StackFramesConfig,
    TimeAwarenessConfig,
)
from pg_experiments.wrappers.normalize_observation import NormalizedPolicy
from pg_experiments.wrappers.repeat_action import RepeatAction
from pg_experiments.wrappers.rewards import RewardWrapper
from pg_experiments.wrappers.stack_frames import StackFrames
from pg_experiments.wrappers.time_awareness import TimeAwareness


def wrapped(env: Env, wrappers: Sequence[Any]) -> Env:
    """The environment inside every wrapper that changes it, the first of the list innermost.

    Raises:
        ConfigError: for time beside images, repeated actions with masks, and for a class of the user's that is not
            there, or makes no environment.
    """
    for place, settings in enumerate(wrappers):
        if isinstance(settings, RepeatActionConfig):
            if env.spec.mask_size:
                problem = "plays an action again that may have become illegal, and this environment has action masks"
                raise ConfigError(f"{KEY}[{place}]", "repeat_action", problem)
            env = RepeatAction(env, settings.times)
        elif isinstance(settings, StackFramesConfig):
            env = StackFrames(env, settings.frames)
        elif isinstance(settings, TimeAwarenessConfig):
            if env.spec.image_shape:
                raise ConfigError(f"{KEY}[{place}]", "time_awareness", "adds a number to a vector, and images are none")
            env = TimeAwareness(env)
        elif isinstance(settings, OwnWrapperConfig):
            env = _own(f"{KEY}[{place}]", env, settings)
    return env


def normalizes_observation(wrappers: Sequence[Any]) -> NormalizeObservationConfig | None:
    """The settings of `normalize_observation`, if it is listed."""
    return next((each for each in wrappers if isinstance(each, NormalizeObservationConfig)), None)


def spec_for_policy(spec: EnvSpec, wrappers: Sequence[Any]) -> EnvSpec:
    """What the trained policy sees: normalised, a state's one-hot vector is none any more."""
    return replace(spec, num_states=None) if normalizes_observation(wrappers) else spec


def acting_policy(policy: Policy, spec: EnvSpec, wrappers: Sequence[Any]) -> Policy:
    """The policy, with the normalisation of its observations where that is listed."""
    settings = normalizes_observation(wrappers)
    return NormalizedPolicy(policy, spec.observation_size - spec.mask_size, settings.limit) if settings else policy


def reward_wrappers(wrappers: Sequence[Any]) -> list[RewardWrapper]:
    """Those that change the rewards which are learned from."""
    return [each for each in wrappers if isinstance(each, RewardWrapper)]


def _own(key: str, env: Env, settings: OwnWrapperConfig) -> Env:
    target = locate(f"{key}._target_", settings.target)
    try:
        made = target(env, **settings.options)
    except Exception as error:  # of a user's class: any kind
        theirs = settings.target.startswith("gymnasium.")
        hint = "; Gymnasium's wrappers go around a Gymnasium environment, in the function that is registered"
        raise ConfigError(key, settings.target, f"{reason_of(error)}{hint if theirs else ''}") from error
    if not isinstance(made, Env):
        raise ConfigError(f"{key}._target_", settings.target, f"makes no environment; see {Env.__module__}")
    return made
