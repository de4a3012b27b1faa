"""What an environment returned, compared with what it must return: in words, when it is something else."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pg_experiments.envs.interface import Env

REAL_NUMBERS, WHOLE_NUMBERS = "fiub", "iub"  # NumPy's kinds of them
LONGEST_VALUE = 60  # characters of it in a message


def name_of(env: Env) -> str:
    """What an environment is called in messages: its own `name`, or its class."""
    return str(getattr(env, "name", type(env).__name__))


def innermost(env: Env) -> Env:
    """The environment inside all wrappers."""
    while (inner := getattr(env, "inner", None)) is not None:
        env = inner
    return env


def fits(after: Any, shape: torch.Size, dtype: torch.dtype) -> bool:
    """Whether a transition holds tensors of the right shapes and types; a microsecond, at every step.

    Args:
        shape: of the observation, `[runs, envs, observation]`.
        dtype: of observation and reward.
    """
    observation, reward, terminated, truncated = after.observation, after.reward, after.terminated, after.truncated
    copies = shape[:2]
    return bool(
        observation.shape == shape
        and reward.shape == copies
        and terminated.shape == copies
        and truncated.shape == copies
        and observation.dtype is dtype
        and reward.dtype is dtype
        and terminated.dtype is torch.bool
        and truncated.dtype is torch.bool
    )


def problem_of_transition(after: Any, shape: torch.Size, dtype: torch.dtype) -> str:
    """What does not fit, of a transition that does not."""
    expected = {
        "observation": (shape, dtype),
        "reward": (shape[:2], dtype),
        "terminated": (shape[:2], torch.bool),
        "truncated": (shape[:2], torch.bool),
    }
    for name, (own_shape, own_dtype) in expected.items():
        if not hasattr(after, name):
            return f"step returned {described(after)}, expected a Transition"
        if problem := problem_of_tensor(getattr(after, name), own_shape, own_dtype):
            article = "an observation" if name == "observation" else "a reward" if name == "reward" else name
            return f"step returned {article} {problem}"
    return "step returned what no environment may"


def problem_of_tensor(value: Any, shape: torch.Size, dtype: torch.dtype) -> str | None:
    """How a value differs from a tensor of this shape and type; None when it does not."""
    if not isinstance(value, Tensor):
        return f"of type {type(value).__name__}, expected a tensor of shape {tuple(shape)}"
    if value.shape != shape:
        return f"of shape {tuple(value.shape)}, expected {tuple(shape)}"
    if value.dtype is not dtype:
        return f"of type {_short(value.dtype)}, expected {_short(dtype)}"
    return None


def box_problem(
    observation: Any, shape: tuple[int, ...], name: str = "an observation", whole: bool = False
) -> str | None:
    """How one copy's observation differs from real, or whole, numbers of this shape; None when it does not."""
    kind, numbers = (WHOLE_NUMBERS, "whole numbers") if whole else (REAL_NUMBERS, "real numbers")
    try:
        array = np.asarray(observation)
    except (ValueError, TypeError):  # lists of different lengths
        return f"{name} that is no array, expected shape {shape}"
    if array.dtype.kind not in kind:
        given = described(observation) if array.ndim == 0 or observation is None else f"type {array.dtype}"
        return f"{name} of {given}, expected {numbers} of shape {shape}"
    return f"{name} of shape {array.shape}, expected {shape}" if array.shape != shape else None


def state_problem(observation: Any, first: int, count: int, name: str = "an observation") -> str | None:
    """How one copy's observation differs from a state of a finite environment; None when it does not."""
    expected = f"expected a whole number from {first} to {first + count - 1}"
    array = np.asarray(observation) if isinstance(observation, np.ndarray | np.generic) else None
    whole = isinstance(observation, int) or (
        array is not None and array.shape == () and array.dtype.kind in WHOLE_NUMBERS
    )
    if whole and first <= int(observation) < first + count:
        return None
    if array is not None and array.shape != ():
        return f"{name} of shape {array.shape}, {expected}"
    return f"{name} of {described(observation)}, {expected}"


def number_of(reward: Any) -> float | None:
    """One real number, also where it stands in an array of its own; None for everything else."""
    if isinstance(reward, float | int | np.floating | np.integer | np.bool_):
        return float(reward)
    if isinstance(reward, np.ndarray | Tensor):
        array = np.asarray(reward)
        return float(array.item()) if array.size == 1 and array.dtype.kind in REAL_NUMBERS else None
    return None


def flag_of(flag: Any) -> bool | None:
    """True or False; None for everything else."""
    if isinstance(flag, bool | np.bool_):
        return bool(flag)
    if isinstance(flag, np.ndarray | np.integer | int) and np.size(flag) == 1 and np.asarray(flag).item() in (0, 1):
        return bool(np.asarray(flag).item())
    return None


def described(value: Any) -> str:
    """A value in few words."""
    if isinstance(value, np.ndarray | Tensor):
        return f"shape {tuple(value.shape)}" if value.ndim else str(value.item())
    text = " ".join((str(value) if isinstance(value, np.generic) else repr(value)).split())
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
