"""What Gymnasium expects of an environment, tried on one copy before any work: a reset and a few steps, twice."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from itertools import zip_longest
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from pg_experiments.envs.action_masks import mask_problem
from pg_experiments.envs.checks import described
from pg_experiments.envs.making import place_of
from pg_experiments.envs.spaces import Observations
from pg_experiments.envs.time_limit import TimeLimit, TookTooLong
from pg_experiments.errors import ConfigError, first_line, reason_of

STEPS = 2  # with sampled actions
SEED = 0
TRIED: set[tuple[type, str]] = set()  # classes and settings: a step may take seconds, so once in a process
RETURNS = {
    "reset": ("observation", "info"),
    "step": ("observation", "reward", "terminated", "truncated", "info"),
}


def check_spaces(id: str, env: gymnasium.Env[Any, Any]) -> None:
    """Raise a `ConfigError` when an environment does not say what it observes and how it acts."""
    for name, example in (("observation_space", "Box(-1.0, 1.0, (4,))"), ("action_space", "Discrete(2)")):
        try:
            space = getattr(env, name, None)
        except Exception as error:  # of a property: any kind
            raise ConfigError("env.id", id, f"its {name} raised {reason_of(error)} ({place_of(error)})") from error
        if space is None:
            raise ConfigError("env.id", id, f"has no {name}; Gymnasium expects one, such as gymnasium.spaces.{example}")
        if not isinstance(space, spaces.Space):
            kind = f"{type(space).__module__}.{type(space).__name__}"
            raise ConfigError("env.id", id, f"its {name} is a {kind}; Gymnasium expects one of gymnasium.spaces")


def try_out(
    id: str,
    kwargs: Mapping[str, Any],
    env: gymnasium.Env[Any, Any],
    observations: Observations,
    mask_size: int = 0,
    limit: TimeLimit | None = None,
) -> None:
    """Play the beginning of an episode twice, from the same seed and with the same actions: five steps in all.

    Args:
        id, kwargs: with which the environment was made.
        env: one copy; it has to be reset afterwards.
        observations: how its observations are read.
        mask_size: numbers that its info has to have as `action_mask`; 0: none.
        limit: of every reset and step.

    Raises:
        ConfigError: says what was raised or returned, and what Gymnasium expects. The two episodes must be equal, but
            for an environment that is registered with `nondeterministic=True`.
    """
    tried = (type(env.unwrapped), f"{id} {kwargs} {mask_size}")
    if tried in TRIED:
        return
    _check_reset_signature(id, env)
    _check_innermost(id, env.unwrapped, limit)
    first, second = (_episode(id, env, observations, mask_size, limit) for _ in range(2))
    differ = [step for step, pair in enumerate(zip_longest(first, second)) if not np.array_equal(*pair)]
    if differ and not (env.spec and env.spec.nondeterministic):
        where = f"in step {differ[0]}" if differ[0] else "in the reset"
        raise ConfigError(
            "env.id",
            id,
            f"two episodes from reset(seed={SEED}) with equal actions differ {where}: Gymnasium expects reset to call "
            "super().reset(seed=seed), random numbers from self.np_random, and nothing kept from episodes before (as "
            "NormalizeObservation does; env.wrappers has normalize_observation); where they cannot be equal, register "
            "it with nondeterministic=True (its runs cannot be repeated)",
        )
    TRIED.add(tried)


def _check_reset_signature(id: str, env: gymnasium.Env[Any, Any]) -> None:
    taken = inspect.signature(env.unwrapped.reset).parameters
    free = any(each.kind is each.VAR_KEYWORD for each in taken.values())
    for name in ("seed", "options"):
        if name not in taken and not free:
            expected = "reset(self, *, seed=None, options=None)"
            raise ConfigError("env.id", id, f"its reset takes no {name}; Gymnasium expects {expected}")


def _check_innermost(id: str, env: gymnasium.Env[Any, Any], limit: TimeLimit | None) -> None:
    """What the user's own class returns is counted first: Gymnasium's wrappers around it take it apart."""
    _called(id, "reset", partial(env.reset, seed=SEED), limit)
    env.action_space.seed(SEED)
    _called(id, "step", partial(env.step, _sample(env)), limit)


def _sample(env: gymnasium.Env[Any, Any]) -> Any:
    action = env.action_space.sample()
    return int(action) if isinstance(env.action_space, spaces.Discrete) else action


def _episode(
    id: str, env: gymnasium.Env[Any, Any], observations: Observations, mask_size: int, limit: TimeLimit | None
) -> list[Any]:
    """A reset and up to `STEPS` steps: the numbers that each returned."""
    env.action_space.seed(SEED)
    seen, info = _called(id, "reset", partial(env.reset, seed=SEED), limit)
    _check_info(id, "reset", info, mask_size)
    numbers = [_vector(id, "reset", observations, seen)]
    for _ in range(STEPS):
        action = _sample(env)
        seen, reward, terminated, truncated, info = _called(id, "step", partial(env.step, action), limit)
        vector = _vector(id, "step", observations, seen)
        _check_reward(id, reward)
        _check_flag(id, "terminated", terminated)
        _check_flag(id, "truncated", truncated)
        _check_info(id, "step", info, mask_size)
        numbers.append(np.array([*vector, reward, terminated, truncated], dtype=float))
        if terminated or truncated:
            break
    return numbers


def _called(id: str, call: str, function: Callable[[], Any], limit: TimeLimit | None) -> tuple[Any, ...]:
    """What a call returned: as many things as Gymnasium expects."""
    try:
        if limit is None:
            given = function()
        else:
            with limit.heard():
                limit.start()
                given = function()
    except TookTooLong as error:
        assert limit is not None
        problem = f"a {call} of {id} took longer, before training began"
        raise ConfigError("env.step_seconds", limit.seconds, problem) from error
    except (Exception, SystemExit) as error:
        problem = f"{call} raised {type(error).__name__}: {first_line(error)} ({place_of(error)})"
        raise ConfigError("env.id", id, problem) from error
    expected = RETURNS[call]
    if isinstance(given, tuple) and len(given) == len(expected):
        return given
    returned = f"{len(given)} values" if isinstance(given, tuple) else described(given)
    old = call == "step" and isinstance(given, tuple) and len(given) == 4
    hint = ", as the old gym did: its `done` is terminated or truncated" if old else ""
    raise ConfigError("env.id", id, f"{call} returned {returned}{hint}; Gymnasium expects ({', '.join(expected)})")


def _vector(id: str, call: str, observations: Observations, observation: Any) -> Any:
    vector = np.zeros(observations.size)
    if problem := observations.put(vector, observation):
        raise ConfigError("env.id", id, f"{call} returned {problem}, as its observation_space says")
    for place in np.flatnonzero(~np.isfinite(vector)).tolist():
        given = f"an observation with {vector[place]} at place {place}"
        raise ConfigError("env.id", id, f"{call} returned {given}, expected finite numbers")
    return vector


def _check_reward(id: str, reward: Any) -> None:
    if not isinstance(reward, float | int | np.floating | np.integer):
        given = f"a reward of {described(reward)} of type {type(reward).__name__}"
        raise ConfigError("env.id", id, f"step returned {given}; Gymnasium expects one number, such as float(reward)")
    if not np.isfinite(reward):
        raise ConfigError("env.id", id, f"step returned a reward of {reward}, expected a finite number")


def _check_flag(id: str, name: str, flag: Any) -> None:
    if not isinstance(flag, bool | np.bool_):
        given = f"{name}={described(flag)} of type {type(flag).__name__}"
        hint = f"such as bool({name})"
        raise ConfigError("env.id", id, f"step returned {given}; Gymnasium expects True or False, {hint}")


def _check_info(id: str, call: str, info: Any, mask_size: int) -> None:
    if not isinstance(info, dict):
        given = f"an info of {described(info)}"
        raise ConfigError("env.id", id, f"{call} returned {given}; Gymnasium expects a dict, which may be empty")
    if mask_size and (problem := mask_problem(np.zeros(mask_size), info)):
        raise ConfigError("env.id", id, f"{call} returned {problem}")
