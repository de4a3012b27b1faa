"""A Gymnasium environment with any action space, which refuses what its space does not hold."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

ACTION_SPACES: dict[str, spaces.Space[Any]] = {
    "multi_discrete": spaces.MultiDiscrete([3, 2, 4], start=[0, 1, -1]),
    "multi_discrete_grid": spaces.MultiDiscrete([[3, 2], [2, 5]]),
    "multi_binary": spaces.MultiBinary(4),
    "multi_binary_grid": spaces.MultiBinary((2, 3)),
    "whole_box": spaces.Box(-3, 4, (2, 2), np.int64),
    "tuple": spaces.Tuple((spaces.Discrete(3, start=1), spaces.Box(-1.0, 2.0, (2,), np.float32))),
    "dict": spaces.Dict(
        {
            "wheel": spaces.Box(-1.0, 1.0, (1,), np.float32),
            "gear": spaces.Discrete(5, start=-1),
            "lights": spaces.Dict({"front": spaces.MultiBinary(2), "all": spaces.MultiDiscrete([2, 3])}),
        }
    ),
}


class OwnSpaces(gymnasium.Env[Any, Any]):
    """Five steps; the reward of each is the largest for the last action that the space can hold everywhere."""

    observation_space: Any

    def __init__(self, kind: str, images: bool = False) -> None:
        self.observation_space = spaces.Box(0, 255, (7, 6), np.uint8) if images else spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = ACTION_SPACES[kind]
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not in {self.action_space}")
        self.steps += 1
        reward = sum(float(np.sum(leaf)) for leaf in leaves(action))
        return self._observation(), reward, self.steps == 5, False, {}

    def _observation(self) -> Any:
        if self.observation_space.dtype == np.uint8:
            return self.np_random.integers(256, size=self.observation_space.shape, dtype=np.uint8)
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


def leaves(action: Any) -> list[Any]:
    """The arrays and numbers of an action."""
    if isinstance(action, dict):
        return [leaf for child in action.values() for leaf in leaves(child)]
    if isinstance(action, tuple):
        return [leaf for child in action for leaf in leaves(child)]
    return [action]


gymnasium.register("OwnSpaces-v0", OwnSpaces, max_episode_steps=9)
