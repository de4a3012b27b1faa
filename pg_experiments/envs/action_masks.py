"""Masks of legal actions: from where environments say what is legal to the end of an observation, see `EnvSpec`.

The mask is a part of the observation because it is one: what may be done is what the policy has to see. So rollouts,
wrappers, checkpoints, evaluation and every algorithm keep it with what it belongs to, and need not know of it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pg_experiments.envs.checks import WHOLE_NUMBERS, described, name_of
from pg_experiments.envs.interface import Actions, DiscreteActions, Env, MultiDiscreteActions
from pg_experiments.errors import ConfigError, EnvError

KEY = "env.action_mask"
NAME = "action_mask"  # in what `reset` and `step` of a Gymnasium environment give as `info`, as of Taxi-v4


def mask_size_of(actions: Actions) -> int:
    """How many numbers a mask of these actions has.

    Raises:
        ConfigError: for actions that are not counted.
    """
    return sum(_choices(actions))


def mask_problem(into: Any, info: Any) -> str | None:
    """Write one copy's mask into a vector, NumPy float64 `[mask]`; or say what is wrong with it.

    Args:
        into: for the mask, as long as it has to be.
        info: a dict; `action_mask` in it is 1 for what is legal and 0 for what is not: an array, or for several choices
            at once a tuple with an array for each.
    """
    if not isinstance(info, Mapping) or NAME not in info:
        has = f"a dict with {', '.join(map(str, info)) or 'nothing'}" if isinstance(info, Mapping) else described(info)
        return f"an info that is {has}, expected {NAME} in it ({KEY}=true)"
    given = info[NAME]
    mask = np.concatenate([np.ravel(part) for part in given]) if isinstance(given, tuple) and given else np.ravel(given)
    if mask.dtype.kind not in WHOLE_NUMBERS or mask.shape != into.shape:
        return f"an {NAME} of {described(given)}, expected {len(into)} numbers 0 or 1"
    into[:] = mask
    for place in np.flatnonzero((into != 0) & (into != 1)).tolist():
        return f"an {NAME} with {into[place]:g} at place {place}, expected 0 or 1"
    return None


def check_legal(
    env: Env, call: str, observation: Float[Tensor, "runs envs observation"], playing: Bool[Tensor, "runs envs"]
) -> None:
    """Raise an `EnvError` when a copy that plays on has nothing left to do.

    Args:
        call: `reset` or `step`, for the message.
        observation: that ends with a mask.
        playing: which copies count.
    """
    stuck = torch.zeros_like(playing)
    for choice in observation[..., -env.spec.mask_size :].split(_choices(env.spec.actions), -1):
        stuck |= (choice <= 0).all(-1)
    if found := (stuck & playing).nonzero().tolist():
        row, copy = found[0]
        problem = f"{call} returned a mask with no legal action, expected at least one"
        raise EnvError(name_of(env), problem, row, copy, certain=True)


def _choices(actions: Actions) -> list[int]:
    """Options of every choice."""
    if isinstance(actions, DiscreteActions):
        return [actions.count]
    if isinstance(actions, MultiDiscreteActions):
        return list(actions.counts)
    raise ConfigError(KEY, True, "needs actions that are Discrete or MultiDiscrete; fitting: false")
