"""New episodes in some copies of an environment while its other copies play on: what fixed rollouts need."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from pg_experiments.envs.checks import name_of
from pg_experiments.envs.interface import Env, EnvState
from pg_experiments.errors import ConfigError
from pg_experiments.wrappers.wrapper import Wrapper, WrapperState


def restarted(
    env: Env, state: EnvState, over: Bool[Tensor, "runs envs"], noise: Float[Tensor, "runs envs noise"]
) -> tuple[EnvState, Float[Tensor, "runs envs observation"]]:
    """Begin a new episode in the copies that are over; the others stay where they are.

    An environment that has a method `restart` does it itself. Of any other all copies are reset, and those that are
    over take their part of what comes out: its state has to consist of tensors.

    Args:
        state: the newest one.
        over: which copies.
        noise: for a reset of all copies.

    Returns:
        The state, and the first observations; those of copies that are not over mean nothing.
    """
    if isinstance(env, Wrapper):
        inner, first = restarted(env.inner, state.inner, over, noise)
        begun, observation = env.begin(inner, first)  # type: ignore[attr-defined]
        return WrapperState(inner, _chosen(over, begun.own, state.own)), observation
    restart = getattr(env, "restart", None)
    if restart is not None:
        return restart(state, over, noise)
    fresh, observation = env.reset(noise)
    return mapped(lambda new, old: _chosen(over, new, old), fresh, state), observation


def mapped(function: Callable[..., Tensor], state: EnvState, *others: EnvState) -> EnvState:
    """A state whose tensors are those that the function makes of the tensors of one or more states of equal form."""
    if isinstance(state, Tensor):
        return function(state, *others)
    if isinstance(state, dict):
        return {key: mapped(function, part, *(other[key] for other in others)) for key, part in state.items()}
    if isinstance(state, tuple | list):
        parts = [mapped(function, *each) for each in zip(state, *others, strict=True)]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    raise TypeError(f"a {type(state).__name__} is no tensor")


def tensors_of(state: EnvState) -> list[Tensor]:
    """The tensors that a state consists of, in order."""
    found: list[Tensor] = []
    mapped(lambda part: found.append(part) or part, state)  # type: ignore[func-returns-value]
    return found


def with_tensors(state: EnvState, tensors: Sequence[Tensor]) -> EnvState:
    """A state of the same form that consists of these tensors."""
    left: Iterator[Tensor] = iter(tensors)
    return mapped(lambda part: next(left), state)


def consists_of_tensors(env: Env, dtype: torch.dtype) -> bool:
    """Whether an environment's state is tensors alone, and can be saved: found by the reset of one copy.

    Raises:
        ConfigError: when it is not, and the environment cannot restart single copies either.
    """
    state, _ = env.reset(torch.full((1, 1, env.spec.reset_noise_size), 0.5, dtype=dtype))
    try:
        return all(part.shape[:2] == (1, 1) for part in tensors_of(state))
    except TypeError:
        innermost: Any = env
        while isinstance(innermost, Wrapper):
            innermost = innermost.inner
        if not hasattr(innermost, "restart"):
            reason = (
                f"plays on while single copies begin new episodes, and {name_of(env)} can restart only all of them: "
                "its state has to be tensors, or it needs a method restart, see envs/interface.py; "
                "algorithm=reinforce needs neither"
            )
            raise ConfigError("algorithm", None, reason) from None
        return False
    finally:
        env.select(state, torch.zeros(0, dtype=torch.long))  # copies that are not tensors can be used again


def _chosen(
    over: Bool[Tensor, "runs envs"], new: Shaped[Tensor, "runs envs *rest"], old: Shaped[Tensor, "runs envs *rest"]
) -> Shaped[Tensor, "runs envs *rest"]:
    if new.ndim > 2:
        over = over.reshape(*over.shape, *(1,) * (new.ndim - 2))
    return torch.where(over, new, old)
