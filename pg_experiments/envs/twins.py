"""Native environments shown by Gymnasium's environment of the same task: their state is put into it, and it draws."""

import os
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from torch import Tensor

from pg_experiments.envs.interface import Env, Twin
from pg_experiments.errors import ConfigError, first_line

FRAMES_PER_SECOND = 30.0  # of an environment that does not say


def gymnasium_twin(native: Env, id: str, put: Callable[[Any, list[float]], None], numbers: int, **kwargs: Any) -> Twin:
    """A native environment as it is, and how a state of it is drawn.

    Args:
        native: whose state begins with tensors `[runs, envs]`.
        id: of Gymnasium's environment.
        put: gives that environment, without its wrappers, a state.
        numbers: how many of the state's tensors it takes.
        kwargs: for `gymnasium.make`.
    """
    env = made(id, **kwargs)
    env.reset(seed=0)

    def picture(state: tuple[Tensor, ...], run: int, copy: int) -> Any:
        put(env.unwrapped, [part[run, copy].item() for part in state[:numbers]])
        return env.render()

    return Twin(native, picture, frames_per_second(env), env.close)


def made(id: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """A Gymnasium environment that draws into arrays.

    Raises:
        ConfigError: when it does not.
    """
    if not os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # else pygame, which many draw with, complains on stderr
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    try:
        env: gymnasium.Env[Any, Any] = gymnasium.make(id, render_mode="rgb_array", disable_env_checker=True, **kwargs)
    except Exception as error:  # of an environment's constructor: any kind
        problem = f"cannot be shown: render_mode=rgb_array: {type(error).__name__}: {first_line(error)}"
        raise ConfigError("env.id", id, problem) from error
    modes = env.metadata.get("render_modes") or []
    if "rgb_array" not in modes:
        has = ", ".join(map(str, modes)) or "none at all"
        raise ConfigError("env.id", id, f"cannot be shown: it has no render mode rgb_array, but {has}")
    return env


def frames_per_second(env: gymnasium.Env[Any, Any]) -> float:
    """At which it looks as it is meant to.

    Raises:
        ConfigError: when what it says is no positive number.
    """
    given = env.metadata.get("render_fps") or FRAMES_PER_SECOND
    if not isinstance(given, float | int | np.floating | np.integer) or not 0 < given < float("inf"):
        name = env.spec.id if env.spec else type(env.unwrapped).__name__
        raise ConfigError("env.id", name, f"cannot be shown: its render_fps is {given!r}, expected a positive number")
    return float(given)


def put_state(env: Any, state: list[float]) -> None:
    """Into one of Gymnasium's environments of classic control."""
    env.state = np.array(state)
