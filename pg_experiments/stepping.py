"""Resets and steps of an environment, looked at: what it does wrong is told with its run, copy and step."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from pg_experiments.envs.action_masks import check_legal
from pg_experiments.envs.checks import fits, name_of, problem_of_tensor, problem_of_transition
from pg_experiments.envs.interface import Env, EnvState, Transition
from pg_experiments.errors import EnvError


def checked_reset(
    env: Env, noise: Float[Tensor, "runs envs noise"], runs: Sequence[int]
) -> tuple[EnvState, Float[Tensor, "runs envs observation"]]:
    """Reset the copies of some runs.

    Args:
        noise: for them.
        runs: what the rows are called.
    """
    try:
        state, observation = env.reset(noise)
        shape = torch.Size([*noise.shape[:2], env.spec.observation_size])
        if problem := problem_of_tensor(observation, shape, noise.dtype):
            raise EnvError(name_of(env), f"reset returned an observation {problem}")
        if env.spec.mask_size:
            check_legal(env, "reset", observation, torch.ones(*noise.shape[:2], dtype=torch.bool))
    except EnvError as error:
        row = 0 if len(runs) == 1 else error.row
        error.run, error.step = (None if row is None else runs[row]), 0
        raise
    return state, observation


def checked_step(
    env: Env,
    state: EnvState,
    action: Num[Tensor, "runs envs *action"],
    running: Bool[Tensor, "runs envs"],
    dtype: torch.dtype,
    runs: Sequence[int],
    step_of: Callable[[int], int],
) -> Transition:
    """One step of all runs that play.

    Args:
        dtype: of all real numbers.
        runs: what the rows are called.
        step_of: from a run's name to the number of its step, counted from 1, for the message.
    """
    shape = torch.Size([*running.shape, env.spec.observation_size])
    try:
        after = env.step(state, action, running)
        try:
            whole = fits(after, shape, dtype)
        except AttributeError:  # no Transition, or no tensors in it
            whole = False
        if not whole:
            raise EnvError(name_of(env), problem_of_transition(after, shape, dtype))
        if env.spec.mask_size:
            check_legal(env, "step", after.observation, running & ~after.terminated & ~after.truncated)
    except EnvError as error:
        row = 0 if len(runs) == 1 else error.row
        if row is not None:
            error.run = runs[row]
            error.step = step_of(error.run)
        raise
    return after
